# SPDX-License-Identifier: Apache-2.0
"""Python's codec under atheris, which takes libFuzzer's options: `python -m tests.fuzz.fuzz_codec -runs=200000 FOLDER...`.

Without atheris (the extra `fuzz`) the inputs are as many neighbours of the golden vectors, blind to what they reach.
`scripts/fuzz` runs both languages.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    atheris = None

if atheris:
    with atheris.instrument_imports(include=["shared_protocol"]):
        from shared_protocol import codec as _codec  # noqa: F401

from tests.fuzz.cases import read_case, write_case
from tests.fuzz.invariants import check
from tests.fuzz.mutation import mutate, seeds


def _test_one(data: bytes) -> None:
    check(read_case(data))


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    changed = write_case(mutate(read_case(data), Random(seed)))
    return changed if len(changed) <= max_size else data[:max_size]


def _run_blind(options: dict[str, str]) -> None:
    began, runs, random = time.monotonic(), int(options.get("-runs", "1000")), Random(0)
    for _ in range(runs):
        case = random.choice(seeds())
        for _ in range(random.randrange(1, 4)):
            case = mutate(case, random)
        try:
            check(case)
        except BaseException:
            Path(options.get("-artifact_prefix", "") + "crash").write_bytes(write_case(case))
            raise
    print(f"stat::number_of_executed_units: {runs}")
    print(f"stat::average_exec_per_sec: {runs / (time.monotonic() - began):.0f}")
    print(f"stat::peak_rss_mb: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


def main() -> None:
    if atheris:
        itself = f"{sys.executable} -m tests.fuzz.fuzz_codec"  # a merge starts this by the shell
        atheris.Setup([itself, *sys.argv[1:]], _test_one, custom_mutator=_mutate)
        atheris.Fuzz()
    elif "-merge=1" not in sys.argv:
        _run_blind(dict(option.split("=", 1) for option in sys.argv[1:] if option.startswith("-")))


if __name__ == "__main__":
    main()
