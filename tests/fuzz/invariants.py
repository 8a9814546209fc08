# SPDX-License-Identifier: Apache-2.0
"""What holds for every message that Python's codec is given, good or bad: `invariants.h` in Python."""

from __future__ import annotations

import functools

import msgspec

from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.errors import DemonError
from tests.fuzz.cases import Case, documented_codes

codes = functools.cache(documented_codes)


def check(case: Case) -> str:
    """Raise AssertionError, or whatever else escapes the codec; the code of the fault, or empty text for a message."""
    try:
        packet = decode(case.parts, rate=case.rate, lane_count=case.lane_count)
    except DemonError as error:
        fault = error
    else:
        _check_message(case, packet)
        return ""
    assert fault.code in codes(), f"{fault.code} is not documented"
    assert fault.message, "a fault says what is wrong"
    encode(Packet(m.Error(fault.code, fault.message[:256], 0)))  # what the server answers
    return fault.code


def _check_message(case: Case, packet: Packet) -> None:
    canonical = encode(packet)
    # Packed audio has no canonical bytes, and goes unpacked where packing gains nothing: its samples are what stays.
    is_packed = packet.audio is not None and getattr(packet.header, "packing", "none") != "none"
    kept = 2 if is_packed else 1
    assert canonical[kept:] == case.parts[kept:], "a payload keeps its bytes"
    again = decode(canonical, rate=case.rate, lane_count=case.lane_count)
    header = again.header
    if is_packed:
        assert packet.audio is not None
        assert again.audio is not None
        assert again.audio.tobytes() == packet.audio.tobytes(), "packed audio keeps its bits"
        header = msgspec.structs.replace(header, packing=packet.header.packing)  # type: ignore[attr-defined]
    assert header == packet.header, "the canonical form decodes to the same message"
    assert encode(again) == canonical, "the canonical form is one"
