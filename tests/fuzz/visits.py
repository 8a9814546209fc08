# SPDX-License-Identifier: Apache-2.0
"""What a strange client says to a server in one visit: conversations as they should be, with damaged messages in between.

A visit is a function of its seed and number, whatever the server answers. The conversations are there so that what is damaged
meets tracks, epochs, clips and references, and not only somebody unknown.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from engine_server.tracks.references import reference_hash
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Floats, Packet, decode, encode
from shared_protocol.errors import DemonError
from shared_protocol.timebase import is_valid_rate, samples_per_frame
from tests.fuzz.cases import Case, corpus_files, read_case
from tests.fuzz.mutation import mutate, seeds

CONVERSATIONS = 3
"""Of a visit, each with a hello of its own."""
ODD_ONES, ODD_HELLOS = (0, 1, 2, 4, 8), (0, 0, 1, 2)
"""So many damaged messages come before a line of the conversation; before its hello."""
SHARES = {"bytes": 3, "an earlier line": 7, "another number": 40, "the corpus": 20, "this line": 30}
"""Of them, by what is done: the last two are neighbours as `mutate` makes them."""
WRONG_SOCKET_SHARE = 0.05
STEPS = (1, 2, 8, 25, 64, 150, 1000)
"""By which numbers are shifted: frames of feeds, hops and latencies."""
KINDS = ("stream", "loop", "commit", "ode", "sde", "none", "zstd")
VALUES = tuple(
    struct.pack("<f", value) for value in (0.0, 1.0, 1.5, -1.0, 3.5, 30.0, 1e9, 1e-40, float("nan"), float("inf"))
)
NEW_CONNECTION_SHARE = 0.3
COUNTS = {8000: (8, 25, 64, 64), 48_000: (1, 8)}
"""Frames of a feed, by the track's rate."""
RATES = (8000, 8000, 8000, 48_000)
LANES = ("denoise", "velocity_scale", "feedback", "timbre", "of another version")
MOST_CONTROL_BYTES = 2**16
"""Of a part. A longer one goes by the audio socket: the control socket would close the connection, which proves nothing here."""
BY_AUDIO = {cls.__name__.lower() for cls in m.ORDERED}


class After(Enum):
    """What a message waits for."""

    NOTHING = 0
    READ = 1
    """All before it has been read by the server: the control socket would overtake the other one."""
    HEARD = 2
    """A window has come, or some time has passed."""


class Said(NamedTuple):
    """A message on its way to a server. is_odd: whether it was damaged; is_anew: whether it is said over new connections."""

    parts: list[bytes]
    by_audio: bool
    is_odd: bool
    is_anew: bool = False
    after: After = After.NOTHING


def make_visit(seed: int, number: int) -> list[Said]:
    """All that is said in one visit."""
    random = Random(f"{seed}:{number}")
    return [said for _ in range(CONVERSATIONS) for said in _converse(random)]


def write_visit(visit: Sequence[Said], path: Path) -> None:
    """Keep a visit, to be replayed even when visits are made otherwise."""
    path.write_bytes(msgspec.msgpack.encode(visit))


def read_visit(path: Path) -> list[Said]:
    """What `write_visit` has kept."""
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Said])


def _converse(random: Random) -> Iterator[Said]:
    rate = random.choice(RATES)
    lanes = random.sample(LANES, random.randrange(len(LANES)))
    is_anew = random.random() < NEW_CONNECTION_SHARE
    said: list[Case] = []
    is_greeting = True
    for packet in _lines(random, rate, lanes):
        said.append(line := Case(rate, len(lanes), encode(packet)))
        for _ in range(random.choice(ODD_HELLOS if is_greeting else ODD_ONES)):
            odd = _odd_one(random, said)
            yield odd
            if not is_greeting and not odd.by_audio and isinstance(_understood(odd, line), m.Bye | m.Hello):
                return  # the rest would be said by nobody, or with another rate
        yield Said(
            line.parts, isinstance(packet.header, m.ORDERED), False, is_anew, _wait_before(random, packet.header)
        )
        is_anew = is_greeting = False


def _wait_before(random: Random, header: m.Message) -> After:
    chance = random.random()
    if isinstance(header, m.Drop | m.Bye):  # which act at once, on all that was not read yet
        return After.READ if chance < 0.6 else After.HEARD if chance < 0.9 else After.NOTHING
    return After.HEARD if isinstance(header, m.Ping) and chance < 0.05 else After.NOTHING


def _odd_one(random: Random, said: Sequence[Case]) -> Said:
    """said: the lines up to the one that comes next."""
    line = said[-1]
    earlier = random.choice(said[1:] or said)  # no more hellos than need be, which begin everything anew
    match random.choices(list(SHARES), list(SHARES.values()))[0]:
        case "bytes":
            parts = [random.randbytes(random.choice((0, 1, 7, 300, 5000))) for _ in range(random.randint(1, 6))]
        case "an earlier line":
            parts = earlier.parts
        case "another number":
            parts = _shifted(random.choice((line, line, earlier)), random)
        case "the corpus":
            strange = random.choice(_strange_cases())
            parts = _neighbour(strange._replace(rate=line.rate, lane_count=line.lane_count), random)
        case _:
            parts = _neighbour(line, random)
    by_audio = (_type_of(parts) in BY_AUDIO) != (random.random() < WRONG_SOCKET_SHARE)
    return Said(parts, by_audio or max(map(len, parts)) > MOST_CONTROL_BYTES, is_odd=True)


def _neighbour(case: Case, random: Random) -> list[bytes]:
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        case = mutate(case, random)
    return [bytes(part) for part in case.parts] or [b""]


def _shifted(case: Case, random: Random) -> list[bytes]:
    """A message in order, but that one of its numbers, flags or values is another: what only a track can tell from right."""
    header, *payloads = case.parts
    if payloads and random.random() < 0.3:
        which = random.randrange(len(payloads))
        at = 4 * random.randrange(max(1, len(payloads[which]) // 4))
        payloads[which] = payloads[which][:at] + random.choice(VALUES) + payloads[which][at + 4 :]
        return [header, *payloads]
    fields = msgspec.msgpack.decode(header)
    place = fields["config"] if "config" in fields and random.random() < 0.5 else fields
    name = random.choice(list(place))
    if isinstance(place[name], bool):
        place[name] = not place[name]
    elif isinstance(place[name], int):
        place[name] = max(0, place[name] + random.choice((1, -1)) * random.choice(STEPS))
    elif place[name] in KINDS:
        place[name] = random.choice(KINDS)
    return [msgspec.msgpack.encode(fields), *payloads]


@functools.cache
def _strange_cases() -> list[Case]:
    return [*seeds(), *(read_case(path.read_bytes()) for path in corpus_files())]


def _type_of(parts: Sequence[bytes]) -> str:
    try:
        return str(msgspec.msgpack.decode(parts[0]).get("type"))
    except (msgspec.DecodeError, ValueError, AttributeError, RecursionError):
        return ""


def _understood(said: Said, line: Case) -> m.Message | None:
    """The header of a message that came out right, for a track like that of a line."""
    try:
        return decode(said.parts, rate=line.rate, lane_count=line.lane_count).header
    except DemonError:
        return None


def expects_welcome(said: Said) -> bool:
    """Whether a message is a hello that opens a track, unless the server is full or wants another latency."""
    if said.by_audio or b"hello" not in said.parts[0]:
        return False
    header = _understood(said, Case(RATES[0], 0, []))
    return isinstance(header, m.Hello) and header.protocol == PROTOCOL_VERSION and is_valid_rate(header.rate)


# The conversations.


def _lines(random: Random, rate: int, lanes: list[str]) -> Iterator[Packet]:
    """What a client says that does as SPEC.md asks, as far as that goes without hearing the answers."""
    is_loop = random.random() < 0.4
    packing: m.Packing = random.choice(("none", "none", "zstd"))
    reference = _noise(rate)[:, : random.randint(1, 6) * 1000]
    name = reference_hash(reference, rate) if random.random() < 0.3 else ""
    config = _any_config(random, timbre=name)
    mode: m.Mode = "loop" if is_loop else "stream"
    yield Packet(
        m.Hello(
            PROTOCOL_VERSION,
            "odd",
            rate,
            mode,
            0 if is_loop else 150,
            random.choice((1, 250, 3000)),
            packing,
            lanes,
            config,
        )
    )
    if name:
        yield from _pieces(name, reference, rate, packing)
    for epoch in range(1, random.randint(2, 4)):
        yield from (_clip if is_loop else _stream)(random, epoch, rate, lanes, packing)
        if random.random() < 0.3:
            yield Packet(m.Configure(epoch, _any_config(random, structure=name)))
            if name:
                yield from _pieces(name, reference, rate, packing)
        yield Packet(m.Ping(epoch, epoch, 0, 0))
        yield Packet(m.Drop(epoch))
    yield Packet(m.Resend())
    yield Packet(m.Status())
    yield Packet(m.Bye())


def _stream(random: Random, epoch: int, rate: int, lanes: list[str], packing: m.Packing) -> Iterator[Packet]:
    first = random.choice((0, 0, 7, -25))
    start = first * samples_per_frame(rate)
    yield Packet(m.Begin(epoch, "stream", start, first, first, random.random() < 0.5))
    fed = first
    for _ in range(random.randint(1, 5)):
        count = random.choice(COUNTS[rate])
        yield _feed(random, epoch, fed, count, rate, lanes, packing)
        fed += count
        yield Packet(m.Ping(1, epoch, max(first, fed - random.choice((0, 25, 150))), fed - first))
    if random.random() < 0.6:
        yield Packet(m.End(epoch, fed))
        yield Packet(m.Ping(2, epoch, fed, fed - first))


def _clip(random: Random, epoch: int, rate: int, lanes: list[str], packing: m.Packing) -> Iterator[Packet]:
    kind: m.Kind = random.choice(("loop", "loop", "commit"))
    yield Packet(m.Begin(epoch, kind, 0, 0, 0, kind == "commit"))
    frames = 0
    for _ in range(random.randint(1, 3)):
        count = random.choice(COUNTS[rate][:2])
        yield _feed(random, epoch, frames, count, rate, lanes, packing)
        frames += count
    yield Packet(m.End(epoch, frames))
    for revision in range(random.randint(0, 4)):
        if kind == "loop" and lanes:
            stop = random.randint(1, frames)
            edit = (random.randrange(len(lanes)), random.randrange(stop), stop, random.choice((0.0, 0.25, 0.5)))
            yield Packet(m.Edit(epoch, revision, 1), edits=np.array([edit], dtype=np.float32))
        yield Packet(m.Ping(3, epoch, random.randrange(frames), 0))


def _feed(
    random: Random, epoch: int, frame: int, count: int, rate: int, lanes: list[str], packing: m.Packing
) -> Packet:
    audio = np.ascontiguousarray(_noise(rate)[:, : count * samples_per_frame(rate)])
    values = np.full((count, len(lanes)), random.choice((0.0, 0.25, 0.5)), dtype=np.float32)
    return Packet(m.Feed(epoch, frame, count, packing), audio, values)


def _pieces(name: str, audio: Floats, rate: int, packing: m.Packing) -> Iterator[Packet]:
    """A reference in two pieces."""
    total = audio.shape[1]
    for first, stop in ((0, total // 2), (total // 2, total)):
        piece = np.ascontiguousarray(audio[:, first:stop])
        yield Packet(m.Reference(name, rate, total, first, stop - first, packing), piece)


def _any_config(random: Random, *, timbre: str = "", structure: str = "") -> m.Config:
    lora = random.choice(("", "", "", "0f" * 32))
    return m.make_config(
        random.choice(("strings", "", "a choir of \u00e9tudes")),
        random.randrange(2**32),
        random.choice((0, 1, 1, 1, 4)),
        random.choice(("ode", "sde")),
        loras=[lora],
        bpm=random.choice((0, 90)),
        feedback_rounds=random.choice((1, 2)),
        timbre=timbre,
        structure=structure,
    )


@functools.cache
def _noise(rate: int) -> Floats:
    """`[2, 64 frames]`."""
    noise = np.random.default_rng(0).standard_normal((2, m.MAX_FEED_FRAMES * samples_per_frame(rate)))
    return (0.1 * noise).astype(np.float32)
