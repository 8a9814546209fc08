# SPDX-License-Identifier: Apache-2.0
"""The headers of `SPEC.md`, sections 3 and 4, one frozen struct each. Field order is the canonical byte order."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared_protocol.timebase import is_valid_rate

MAX_POSITION = 2**53
MAX_FEED_FRAMES = 64
MAX_WINDOW_FRAMES = 256

Epoch = Annotated[int, Meta(ge=1, le=2**31 - 1)]
EpochOrNone = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Position = Annotated[int, Meta(ge=-MAX_POSITION, le=MAX_POSITION)]
LatencyFrames = Annotated[int, Meta(ge=1, le=3000)]
Version = Annotated[int, Meta(ge=1, le=65535)]
Revision = Annotated[int, Meta(ge=0, le=2**31 - 1)]
StepCount = Annotated[int, Meta(ge=0, le=50)]


class FieldError(ValueError):
    """A field has the right type and a wrong value; the text names field, value and range."""


def _check_text(name: str, value: str, low: int, high: int) -> None:
    size = len(value.encode("utf-8"))
    if not low <= size <= high:
        raise FieldError(f"{name} has {size} bytes; {low} to {high} are allowed")


class Config(msgspec.Struct, frozen=True):
    """Submission-time state of a track. `steps` 0 is the checkpoint's own number."""

    prompt: str
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    steps: StepCount
    solver: Literal["ode", "sde"]

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt, 0, 4096)


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of all headers; `type` is the class name in lower case."""


class Hello(Message, frozen=True):
    protocol: Version
    client: str
    rate: int
    latency: LatencyFrames
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
    start: Position
    feed_from: Position
    deliver_from: Position
    offline: bool


class Feed(Message, frozen=True):
    epoch: Epoch
    frame: Position
    count: Annotated[int, Meta(ge=1, le=MAX_FEED_FRAMES)]


class End(Message, frozen=True):
    epoch: Epoch
    frame: Position


class Drop(Message, frozen=True):
    epoch: EpochOrNone


class Ping(Message, frozen=True):
    epoch: EpochOrNone
    wanted: Position


class Bye(Message, frozen=True):
    pass


class Welcome(Message, frozen=True):
    protocol: Version
    server: str
    checkpoint: str
    checkpoint_hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    backend: str
    lanes: list[str]
    minimum_latency: LatencyFrames
    retain: Annotated[int, Meta(ge=0, le=6000)]

    def __post_init__(self) -> None:
        _check_text("server", self.server, 1, 64)
        _check_text("checkpoint", self.checkpoint, 1, 128)
        _check_text("backend", self.backend, 1, 64)


class Configured(Message, frozen=True):
    revision: Revision


class Window(Message, frozen=True):
    epoch: Epoch
    frame: Position
    count: Annotated[int, Meta(ge=1, le=MAX_WINDOW_FRAMES)]


class Progress(Message, frozen=True):
    epoch: Epoch
    frame: Position
    step: StepCount
    steps: StepCount


class Pong(Message, frozen=True):
    epoch: EpochOrNone
    expected: Position


class Error(Message, frozen=True):
    code: str
    message: str
    epoch: EpochOrNone

    def __post_init__(self) -> None:
        _check_text("code", self.code, 1, 32)
        _check_text("message", self.message, 0, 1024)


FROM_CLIENT = Hello | Configure | Begin | Feed | End | Drop | Ping | Bye
FROM_SERVER = Welcome | Configured | Window | Progress | Pong | Error
