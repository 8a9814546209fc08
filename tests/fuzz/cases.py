# SPDX-License-Identifier: Apache-2.0
"""A message and its track's shape in the bytes of one file: the twin of `fuzz_case.h`, which says how.

`python -m tests.fuzz.cases SEEDS DICTIONARY` writes the golden vectors as cases into a folder, and what they are made of
as a dictionary for libFuzzer, so that new messages reach the fuzzers by their vectors alone.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shared_protocol import PROTOCOL_VERSION, vectors
from shared_protocol.codec import decode, encode
from shared_protocol.errors import DemonError
from shared_protocol.timebase import is_valid_rate
from shared_protocol.vectors.make import pack_parts, unpack_parts

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
VECTORS = Path(vectors.__file__).parent
SPEC = VECTORS.parent / "SPEC.md"
RATES = (8000, 11025, 22050, 44100, 48000, 96000, 192000)
MAX_PARTS = 6
MAX_FILLED = 2**15 + 64
MAX_LITERAL = 2**24 - 1


class Case(NamedTuple):
    """One message as it came, and what the track's `hello` said."""

    rate: int
    lane_count: int
    parts: list[bytes]


def read_case(data: bytes) -> Case:
    """The case of a file; any bytes are one."""
    parts: list[bytes] = []
    padded, at = data + bytes(8), 2
    while at < len(data) and len(parts) < MAX_PARTS:
        is_filled, size = padded[at] & 1, int.from_bytes(padded[at + 1 : at + 4], "little")
        at += 4
        if is_filled:
            size %= MAX_FILLED + 1
            parts.append((padded[at : at + 4].ljust(4, b"\0") * (size // 4 + 1))[:size])
            at += 4
        else:
            parts.append(data[at : at + size])
            at += len(parts[-1])
    return Case(RATES[(padded[0] & 0x7F) % len(RATES)], padded[1], parts)


def write_case(case: Case) -> bytes:
    """The bytes of a case. What repeats four bytes is written shorter than it is."""
    data = bytes([RATES.index(case.rate), case.lane_count])
    for part in case.parts:
        word = part[:4]
        if 16 < len(part) <= MAX_FILLED and part == (word * (len(part) // 4 + 1))[: len(part)]:
            data += b"\1" + len(part).to_bytes(3, "little") + word
        else:
            data += b"\0" + len(part).to_bytes(3, "little") + part
    return data


def verdict(case: Case) -> str:
    """What Python makes of a case, in the words of `replay.cpp`: `TYPE CRC` of its canonical form, or the error's code.

    Rates are the server's to check here and the codec's in C++, after the version in both.
    """
    try:
        packet = decode(case.parts, rate=case.rate, lane_count=case.lane_count)
    except DemonError as error:
        return error.code
    header = packet.header
    if not is_valid_rate(getattr(header, "rate", RATES[0])):
        return (
            "E_SAMPLE_RATE"
            if getattr(header, "protocol", PROTOCOL_VERSION) == PROTOCOL_VERSION
            else "E_PROTOCOL_VERSION"
        )
    return f"{type(header).__name__.lower()} {zlib.crc32(pack_parts(encode(packet))):08x}"


def documented_codes() -> frozenset[str]:
    """The codes in the table of SPEC.md."""
    return frozenset(re.findall(r"^\| (E_[A-Z_]+) \|", SPEC.read_text(encoding="utf-8"), re.MULTILINE))


def vector_cases() -> Iterator[tuple[str, str, Case]]:
    """(name, `valid` or `invalid`, case) of every golden vector. Payloads of more than one value become shorter as cases
    of one repeated value, since their numbers are of no interest here."""
    for line in (VECTORS / "index.txt").read_text(encoding="ascii").splitlines():
        name, kind, _, rate, lanes = line.split()
        header, *payloads = unpack_parts((VECTORS / name).read_bytes())
        short = [
            part if len(part) <= 64 or "nan" in name else part[:4] * (len(part) // 4) + part[: len(part) % 4]
            for part in payloads
        ]
        yield name.removesuffix(".bin"), kind, Case(int(rate), min(int(lanes), 255), [header, *short])


def corpus_files() -> list[Path]:
    """The kept corpus: what reaches every branch, and what once broke something."""
    return sorted(path for path in CORPUS.rglob("*") if path.is_file())


def dictionary() -> list[str]:
    """Keys and short values of the vectors' headers, as libFuzzer reads them."""
    words: set[bytes] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(key)
                collect(inner)
        elif isinstance(value, list):
            for inner in value[:4]:
                collect(inner)
        else:
            words.add(msgspec.msgpack.encode(value))

    for _, kind, case in vector_cases():
        if kind == "valid":
            collect(msgspec.msgpack.decode(case.parts[0]))
    return ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in sorted(words) if len(word) <= 64]


def main(arguments: Sequence[str]) -> None:
    seeds, words = map(Path, arguments)
    seeds.mkdir(parents=True, exist_ok=True)
    for name, _, case in vector_cases():
        (seeds / name).write_bytes(write_case(case))
    words.write_text("\n".join(dictionary()) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
