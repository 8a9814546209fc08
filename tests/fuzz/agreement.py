# SPDX-License-Identifier: Apache-2.0
"""Whether two codes for one message may both be right: only if there are several faults in it (SPEC.md, section 2).

`python -m tests.fuzz.agreement` reads the verdicts of `demon_fuzz_replay --verdicts` and fails where Python says otherwise.

Faults are told apart by putting each field of the message into a golden one of its type, so this knows no message by name.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz.cases import Case, read_case, vector_cases, verdict

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
    header = _opened(case.parts[0]) if case.parts else None
    name = header.get("type") if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(name, str) or name not in _golden():
        return set()
    golden = _golden()[name]
    right = msgspec.msgpack.decode(golden.parts[0])
    found = {_code(golden, one) for one in _one_fault_each(right, header, lambda one: _code(golden, one))}
    # Keys that may be missing, and are in the golden one, speak of the payload or of nothing.
    found |= {_code(golden, right | {key: given}) for key, given in header.items() if key not in right}
    whole = _code(golden, {key: given for key, given in header.items() if key in right}) or _code(golden, header)
    if (whole or found - {""}) and max(len(case.parts), len(golden.parts)) > 1:  # beside what is wrong with the header
        found |= {whole, *PAYLOAD_FAULTS}
    return found - {""}


def _opened(data: bytes | msgspec.Raw) -> Any:
    """The value of msgpack; within it, what cannot be decoded stays raw."""
    for kind in (dict[str, msgspec.Raw], list[msgspec.Raw], Any):
        with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
            value = msgspec.msgpack.decode(data, type=kind)
            if isinstance(value, dict):
                return {key: _opened(inner) for key, inner in value.items()}
            return [_opened(inner) for inner in value] if isinstance(value, list) else value
    return data if isinstance(data, msgspec.Raw) else None


def _one_fault_each(
    golden: dict[str, Any], header: dict[str, Any], is_wrong: Callable[[dict[str, Any]], object]
) -> Iterator[dict[str, Any]]:
    for key, right in golden.items():
        if key not in header:
            yield {name: value for name, value in golden.items() if name != key}
            continue
        given = header[key]
        yield golden | {key: given}
        if isinstance(right, dict) and isinstance(given, dict):

            def is_wrong_inside(inner: dict[str, Any], key: str = key) -> object:
                return is_wrong(golden | {key: inner})

            for inner in _one_fault_each(right, given, is_wrong_inside):
                yield golden | {key: inner}
        elif isinstance(right, list) and isinstance(given, list):
            for entry in {msgspec.msgpack.encode(entry): entry for entry in given}.values():
                yield golden | {key: [entry]}
            yield golden | {key: [entry for entry in given if not is_wrong(golden | {key: [entry]})]}  # one twice
            # Too long, whatever is in it: neither as many of one right entry nor as many different ones would do.
            alike, different = [*right, ""][:1] * len(given), [str(number) for number in range(len(given))]
            if all(is_wrong(golden | {key: entries}) for entries in (alike, different)):
                yield golden | {key: alike}


def _code(golden: Case, header: dict[str, Any]) -> str:
    """What is wrong with a header, whatever comes with it."""
    code = verdict(Case(golden.rate, golden.lane_count, [msgspec.msgpack.encode(header), *golden.parts[1:]]))
    return code if code.startswith("E_") and code not in ("E_PAYLOAD_SIZE", "E_NOT_FINITE") else ""


def main() -> None:
    compared, different = 0, 0
    for line in sys.stdin:
        name, _, cpp = line.rstrip("\n").partition(" ")
        case = read_case(Path(name).read_bytes())
        if text := disagreement(case, verdict(case), cpp):
            print(f"{name}: {text}")
            different += 1
        compared += 1
    print(f"{compared} compared, {different} differ")
    sys.exit(1 if different or not compared else 0)


if __name__ == "__main__":
    main()
