# SPDX-License-Identifier: Apache-2.0
"""The headers of `SPEC.md`, sections 3 and 4, one frozen struct each. Field order is the canonical byte order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared_protocol.timebase import is_valid_rate

MAX_POSITION = 2**53
MAX_FEED_FRAMES = 64
MAX_WINDOW_FRAMES = 256
MAX_EDITS = 65_536
MAX_PIECE_SAMPLES = 65_536
MAX_REFERENCE_SAMPLES = 11_520_000
"""Samples of a reference: four minutes at 48 kHz."""
MAX_CREDIT = 3000
"""Frames of windows or of feed that may be on their way, whatever either end grants."""
MAX_OPEN_EPOCHS = 64
MAX_CLIP_FRAMES = 2**24
"""Frames of a clip, whatever the server's own limit is: offsets into it are exact in binary32."""
LORA_SLOTS = 4
MAX_REPORT_BYTES = 60_000
"""Of a `state`; a header has 65536 in all."""

Epoch = Annotated[int, Meta(ge=1, le=2**31 - 1)]
EpochOrNone = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Position = Annotated[int, Meta(ge=-MAX_POSITION, le=MAX_POSITION)]
LatencyFrames = Annotated[int, Meta(ge=0, le=3000)]
MinimumLatency = Annotated[int, Meta(ge=1, le=3000)]
Version = Annotated[int, Meta(ge=1, le=65535)]
Revision = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StepCount = Annotated[int, Meta(ge=0, le=50)]
Take = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
HashOrNone = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
PerSecond = Annotated[float, Meta(ge=0.0, le=1e6)]
Mode = Literal["stream", "loop"]
Kind = Literal["stream", "loop", "commit"]
Cost = Literal["free", "encode", "refit"]
Credit = Annotated[int, Meta(ge=1, le=MAX_CREDIT)]
Ticket = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Packing = Literal["none", "zstd"]
"""How audio travels: as it is, or with its bytes sorted by significance and compressed."""
PingNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class FieldError(ValueError):
    """A field has the right type and a wrong value; the text names field, value and range."""


def _check_text(name: str, value: str, low: int, high: int) -> None:
    size = len(value.encode("utf-8"))
    if not low <= size <= high:
        raise FieldError(f"{name} has {size} bytes; {low} to {high} are allowed")


def _check_list(name: str, values: list[str], most: int, low: int, high: int) -> None:
    if len(values) > most:
        raise FieldError(f"{name} has {len(values)} entries; 0 to {most} are allowed")
    for value in values:
        _check_text(name, value, low, high)


class Config(msgspec.Struct, frozen=True):
    """Submission-time state of a track; `make_config` gives what is not named its neutral value.

    `steps` 0 is the checkpoint's own number; `bpm` and `meter` 0 are not told to the model. `timbre` and `structure` name
    references by their hash, "" is none; `loras` are content hashes, "" an empty place.
    """

    prompt: str
    prompt_b: str
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    steps: StepCount
    solver: Literal["ode", "sde"]
    loras: list[HashOrNone]
    timbre: HashOrNone
    structure: HashOrNone
    feedback_rounds: Annotated[int, Meta(ge=1, le=8)]
    bpm: Annotated[int, Meta(ge=0, le=400)]
    meter: Annotated[int, Meta(ge=0, le=16)]

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt, 0, 4096)
        _check_text("prompt_b", self.prompt_b, 0, 4096)
        _check_list("loras", self.loras, LORA_SLOTS, 0, 64)
        if 0 < self.bpm < 20:
            raise FieldError(f"bpm is {self.bpm}; 0, or 20 to 400, is allowed")


def make_config(
    prompt: str = "",
    seed: int = 0,
    steps: int = 0,
    solver: Literal["ode", "sde"] = "ode",
    *,
    prompt_b: str = "",
    loras: Sequence[str] = (),
    timbre: str = "",
    structure: str = "",
    feedback_rounds: int = 1,
    bpm: int = 0,
    meter: int = 0,
) -> Config:
    """A configuration in which what is not named is neutral."""
    return Config(
        prompt, prompt_b, seed, steps, solver, list(loras), timbre, structure, feedback_rounds, bpm, meter
    )  # fmt: skip


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, omit_defaults=True):
    """Base of all headers; `type` is the class name in lower case. A key with a default is left out where it has that value."""


class Hello(Message, frozen=True):
    protocol: Version
    client: str
    rate: int
    mode: Mode
    latency: LatencyFrames
    credit: Credit
    packing: Packing
    lanes: list[str]
    config: Config

    def __post_init__(self) -> None:
        _check_text("client", self.client, 1, 64)
        if len(self.lanes) > 256 or len(set(self.lanes)) != len(self.lanes):
            raise FieldError("lanes must be at most 256 different ids")
        for lane in self.lanes:
            _check_text("lanes", lane, 1, 32)

    def is_rate_valid(self) -> bool:
        """Checked by the server after the version, since it has an error code of its own."""
        return is_valid_rate(self.rate)


class Configure(Message, frozen=True):
    revision: Revision
    config: Config


class Begin(Message, frozen=True):
    epoch: Epoch
    kind: Kind
    start: Position
    feed_from: Position
    deliver_from: Position
    offline: bool


class Feed(Message, frozen=True):
    epoch: Epoch
    frame: Position
    count: Annotated[int, Meta(ge=1, le=MAX_FEED_FRAMES)]
    packing: Packing = "none"


class End(Message, frozen=True):
    epoch: Epoch
    frame: Position


class Drop(Message, frozen=True):
    epoch: EpochOrNone


class Ping(Message, frozen=True):
    number: PingNumber
    epoch: EpochOrNone
    wanted: Position
    received: Annotated[int, Meta(ge=0, le=MAX_POSITION)]


class Edit(Message, frozen=True):
    epoch: Epoch
    revision: Revision
    count: Annotated[int, Meta(ge=1, le=MAX_EDITS)]


class Reference(Message, frozen=True):
    hash: Hash
    rate: int
    total: Annotated[int, Meta(ge=1, le=MAX_REFERENCE_SAMPLES)]
    first: Annotated[int, Meta(ge=0, le=MAX_REFERENCE_SAMPLES)]
    count: Annotated[int, Meta(ge=1, le=MAX_PIECE_SAMPLES)]
    packing: Packing = "none"

    def __post_init__(self) -> None:
        if self.first + self.count > self.total:
            raise FieldError(f"first + count is {self.first + self.count}, beyond the total of {self.total}")


class Resend(Message, frozen=True):
    pass


class Bye(Message, frozen=True):
    pass


class Status(Message, frozen=True):
    pass


class Welcome(Message, frozen=True):
    protocol: Version
    ticket: Ticket
    credit: Credit
    packing: Packing
    server: str
    checkpoint: str
    checkpoint_hash: Hash
    backend: str
    lanes: list[str]
    costs: list[Cost]
    minimum_latency: MinimumLatency
    retain: Annotated[int, Meta(ge=0, le=6000)]
    steps: Annotated[int, Meta(ge=1, le=50)]
    depth: Annotated[int, Meta(ge=1, le=256)]
    clip_limit: Annotated[int, Meta(ge=0, le=MAX_CLIP_FRAMES)]
    loras: list[Hash]
    lora_names: list[str]

    def __post_init__(self) -> None:
        _check_text("server", self.server, 1, 64)
        _check_text("checkpoint", self.checkpoint, 1, 128)
        _check_text("backend", self.backend, 1, 64)
        _check_list("lanes", self.lanes, 256, 1, 32)
        if len(set(self.lanes)) != len(self.lanes):
            raise FieldError("lanes names one twice")
        _check_list("loras", self.loras, 256, 64, 64)
        _check_list("lora_names", self.lora_names, 256, 1, 128)
        if len(self.costs) != len(self.lanes):
            raise FieldError(f"costs has {len(self.costs)} entries for {len(self.lanes)} lanes")
        if len(self.lora_names) != len(self.loras):
            raise FieldError(f"lora_names has {len(self.lora_names)} entries for {len(self.loras)} loras")


class Configured(Message, frozen=True):
    revision: Revision


class Edited(Message, frozen=True):
    epoch: Epoch
    revision: Revision


class Referenced(Message, frozen=True):
    hash: Hash


class Window(Message, frozen=True):
    epoch: Epoch
    take: Take
    frame: Position
    count: Annotated[int, Meta(ge=1, le=MAX_WINDOW_FRAMES)]
    packing: Packing = "none"


class Progress(Message, frozen=True):
    epoch: Epoch
    frame: Position
    step: StepCount
    steps: StepCount


class Pong(Message, frozen=True):
    number: PingNumber
    epochs: list[Epoch]
    expected: list[Position]
    ticks: PerSecond
    generations: PerSecond

    def __post_init__(self) -> None:
        if len(self.epochs) > MAX_OPEN_EPOCHS:
            raise FieldError(f"epochs has {len(self.epochs)} entries; 0 to {MAX_OPEN_EPOCHS} are allowed")
        if len(self.expected) != len(self.epochs):
            raise FieldError(f"expected has {len(self.expected)} entries for {len(self.epochs)} epochs")


class Redirect(Message, frozen=True):
    endpoint: str
    key: Annotated[str, Meta(pattern=r"^([!-~]{40})?\Z")]

    def __post_init__(self) -> None:
        _check_text("endpoint", self.endpoint, 1, 256)


class Closing(Message, frozen=True):
    reason: str

    def __post_init__(self) -> None:
        _check_text("reason", self.reason, 0, 256)


class State(Message, frozen=True):
    report: str

    def __post_init__(self) -> None:
        _check_text("report", self.report, 2, MAX_REPORT_BYTES)


class Error(Message, frozen=True):
    code: str
    message: str
    epoch: EpochOrNone

    def __post_init__(self) -> None:
        _check_text("code", self.code, 1, 32)
        _check_text("message", self.message, 0, 1024)


FROM_CLIENT = Hello | Configure | Begin | Feed | End | Drop | Ping | Edit | Reference | Resend | Bye | Status
FROM_SERVER = Welcome | Redirect | Configured | Edited | Referenced | Window | Progress | Pong | Closing | State | Error
PACKABLE = (Feed, Reference, Window)
"""What carries audio. `packing` says how, when decoded; how it shall be, when encoded."""
ORDERED = (Configure, Begin, Feed, End, Edit, Reference, Window)
"""What travels on the audio socket: it must not overtake one another. All else goes by the control socket."""
