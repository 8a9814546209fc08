# SPDX-License-Identifier: Apache-2.0
"""Whether two codes for one message may both be right: only if there are several faults in it (SPEC.md, section 2).

Faults are told apart by putting each field of the message into a golden one of its type, so this knows no message by name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.fuzz.cases import Case, vector_cases, verdict

PAYLOAD_FAULTS = {"E_MALFORMED", "E_PAYLOAD_SIZE", "E_NOT_FINITE"}


def disagreement(case: Case, python: str, cpp: str) -> str:
    """Empty if both say the same, or name two of several faults; else what they say."""
    if python == cpp or {python, cpp} <= faults(case):
        return ""
    return f"Python says {python}, C++ says {cpp}: {[part[:300] for part in case.parts]}"


@functools.cache
def _golden() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for _, kind, case in vector_cases():
        if kind == "valid":
            cases.setdefault(msgspec.msgpack.decode(case.parts[0])["type"], case)
    return cases


def faults(case: Case) -> set[str]:
    """The codes of a message's faults, each alone; none if it is not a map with a known type, which both ends look at first."""
    try:
        header = msgspec.msgpack.decode(case.parts[0])
        golden = _golden()[header["type"]]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, msgspec.DecodeError):
        return set()
    found = {_code(golden, variant) for variant in _one_fault_each(msgspec.msgpack.decode(golden.parts[0]), header)}
    if _code(golden, header):  # beside what is wrong with the header
        found |= {_code(golden, header), *PAYLOAD_FAULTS} if len(case.parts) > 1 or len(golden.parts) > 1 else set()
    return found - {""}


def _one_fault_each(golden: dict[str, Any], header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, right in golden.items():
        if key not in header:
            yield {name: value for name, value in golden.items() if name != key}
            continue
        given = header[key]
        yield golden | {key: given}
        if isinstance(right, dict) and isinstance(given, dict):
            for inner in _one_fault_each(right, given):
                yield golden | {key: inner}
        elif isinstance(given, list):
            for entry in {repr(entry): entry for entry in given}.values():
                yield golden | {key: [entry]}


def _code(golden: Case, header: dict[str, Any]) -> str:
    """What is wrong with a header, whatever comes with it."""
    code = verdict(Case(golden.rate, golden.lane_count, [msgspec.msgpack.encode(header), *golden.parts[1:]]))
    return code if code.startswith("E_") and code not in ("E_PAYLOAD_SIZE", "E_NOT_FINITE") else ""
