# SPDX-License-Identifier: Apache-2.0
"""Changes a case where it matters, in the tree of its header and in its parts: `mutator.h` in Python, on a smaller scale.

Knows no message by name. All chance comes from the given `random.Random`.
"""

from __future__ import annotations

import functools
import re
import struct
from random import Random
from typing import Any

import msgspec

from shared_protocol.codec import decode
from shared_protocol.errors import DemonError
from tests.fuzz.cases import MAX_FILLED, RATES, Case, vector_cases

NUMBERS = (
    0,
    1,
    16,
    25,
    32,
    50,
    64,
    256,
    400,
    3000,
    4096,
    6000,
    8000,
    48000,
    65536,
    192000,
    11_520_000,
    2**24,
    2**31,
    2**53,
    2**63,
)
REALS = (0.0, -0.0, 1.0, 1e6, 1.0000000001e6, float("nan"), float("inf"), 5e-324, -1.0)
TEXTS = ("", "\0", "\n", "\u20ac", "\U0001f3bb", "type", "a" * 33, "a" * 65, "\u00e9" * 64, "0f" * 32, "a" * 4097)
RAW = (b"\xc1", b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xc4\x00", b"\xd4\xffz", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
       b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xca\x3f\x80\x00\x00", b"\x91" * 9, b"\x91" * 3000)  # fmt: skip
WORDS = (
    bytes(4),
    struct.pack("<f", 0.5),
    struct.pack("<f", -1.0),
    struct.pack("<f", float("nan")),
    struct.pack("<f", float("inf")),
)
MAX_HEADER = 100_000
"""Bytes: above the codec's own limit."""


class Pairs(list[list[Any]]):
    """A map that may have a key twice, and any value for a key."""


class Bytes(bytes):
    """What stands for itself in msgpack."""


def loosen(value: Any) -> Any:
    """Decoded msgpack with its maps as `Pairs`."""
    if isinstance(value, dict):
        return Pairs([key, loosen(inner)] for key, inner in value.items())
    return [loosen(inner) for inner in value] if isinstance(value, list) else value


def pack(value: Any) -> bytes:
    """The bytes of what `loosen` gave, however it was changed."""
    if isinstance(value, Bytes):
        return value
    if isinstance(value, Pairs):
        head = b"\xde" + struct.pack(">H", len(value)) if len(value) > 15 else bytes([0x80 | len(value)])
        return head + b"".join(pack(item) for pair in value for item in pair)
    if isinstance(value, list):
        head = b"\xdc" + struct.pack(">H", len(value)) if len(value) > 15 else bytes([0x90 | len(value)])
        return head + b"".join(map(pack, value))
    return msgspec.msgpack.encode(value)


@functools.cache
def seeds() -> list[Case]:
    """Every golden vector."""
    return [case for _, _, case in vector_cases()]


def mutate(case: Case, random: Random) -> Case:
    """A neighbour of a case."""
    rate, lane_count, parts = case.rate, case.lane_count, list(case.parts) or [b""]
    for _ in range(random.choice((1, 1, 1, 2))):
        choice = random.random()
        if choice < 0.05:
            rate = random.choice(RATES)
        elif choice < 0.1:
            lane_count = random.choice((0, 1, 2, 3, 255))
        elif choice < 0.2:
            parts = _change_parts(parts, random)
        elif choice < 0.23:
            parts[0] = _change_bytes(parts[0], random)
        else:
            parts[0] = _change_header(parts[0], random)
    changed = Case(rate, lane_count, parts)
    return _with_wanted_payloads(changed, random) if random.random() < 0.5 else changed


def _change_parts(parts: list[bytes], random: Random) -> list[bytes]:
    which = random.randrange(len(parts))
    change = random.choice(("add", "remove", "cut", "word", "bytes"))
    if change == "add":
        return [*parts, random.choice(WORDS) * random.choice((0, 1, 5, 640))][:6]
    if change == "remove":
        return parts[:which] + parts[which + 1 :] or [b""]
    part = parts[which]
    if change == "cut":
        part = part[: random.randrange(len(part) + 1)]
    elif change == "word" and which > 0:
        at = 4 * random.randrange(len(part) // 4 + 1)
        part = part[:at] + random.choice(WORDS) + part[at + 4 :]
    elif len(part) < 4096:
        part = _change_bytes(part, random)
    return [*parts[:which], part, *parts[which + 1 :]]


def _change_bytes(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.randrange(4)) + data[at + random.randrange(4) :]


def _change_header(data: bytes, random: Random) -> bytes:
    try:
        tree = loosen(msgspec.msgpack.decode(data))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _change_bytes(data, random)
    holder: list[Any] = [tree]
    place, key = holder, 0
    while isinstance(place[key], list) and place[key] and random.random() < 0.85:
        inner = place[key]
        key = random.randrange(len(inner))
        place = inner
        if isinstance(inner, Pairs):
            place, key = inner[key], 0 if random.random() < 0.1 else 1
    place[key] = _changed(place[key], random)
    changed = pack(holder[0])
    return changed if len(changed) <= MAX_HEADER else data


def _changed(value: Any, random: Random) -> Any:
    choice = random.random()
    if isinstance(value, list) and choice < 0.7:
        changed = type(value)(value)
        if changed and choice < 0.3:
            del changed[random.randrange(len(changed))]
        elif changed and choice < 0.4:
            random.shuffle(changed)
        else:
            fresh = ["k", _interesting(random)] if isinstance(value, Pairs) else _interesting(random)
            entry = random.choice(changed) if changed and choice < 0.55 else fresh
            most = MAX_HEADER // (1 + len(pack(entry)))  # lists of long lists would take the fuzzer's time
            changed.extend([entry] * min(random.choice((1,) * 40 + (2,) * 10 + (5, 257, 4097)), most))
        return changed
    if isinstance(value, str) and choice < 0.7:
        return random.choice((*TEXTS, value * 2, value[:-1], value + "\n", value.upper(), value + "\u00e9"))[:5000]
    if isinstance(value, int) and choice < 0.7:
        return random.choice(
            (_number(random), min(value + 1, 2**64 - 1), max(-value, -(2**63)), not value, float(value))
        )
    return [value] if choice > 0.97 else _interesting(random)


def _interesting(random: Random) -> Any:
    kind = random.randrange(6)
    if kind < 2:
        return _number(random)
    if kind == 2:
        return random.choice(REALS)
    if kind == 3:
        return random.choice(TEXTS)
    return Bytes(random.choice(RAW)) if kind == 4 else random.choice((None, True, False, [], Pairs()))


def _number(random: Random) -> int:
    """One at or beside the end of some range."""
    return max(-(2**63), random.choice((1, 1, -1)) * random.choice(NUMBERS) + random.randrange(-1, 2))


def _with_wanted_payloads(case: Case, random: Random) -> Case:
    """The case with as many parts, and bytes in them, as the decoder asks for."""
    parts = list(case.parts)
    for _ in range(6):
        try:
            decode(parts, rate=case.rate, lane_count=case.lane_count)
            break
        except DemonError as error:
            complaint = error.message
        if sizes := re.search(r"has (\d+) bytes; the header asks for (\d+)", complaint):
            has, asks = map(int, sizes.groups())
            which = next(i for i, part in enumerate(parts) if i > 0 and len(part) == has)
            if asks > MAX_FILLED:
                break
            parts[which] = (parts[which][:4].ljust(4, b"\0") * (asks // 4 + 1))[:asks]
        elif complaint.endswith("parts"):
            parts = [*parts, random.choice(WORDS)] if len(parts) < 3 else parts[:1]
        else:
            break
    return Case(case.rate, case.lane_count, parts)
