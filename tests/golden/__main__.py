# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.golden DIR`: run every vector file of a folder, one line per case; exit status 1 if any fails."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from pathlib import Path

from tests.golden.vectors import check_file


def main(folder: Path) -> int:
    files = sorted(folder.glob("*.npz"))
    if not files:
        print(f"no vector files in {folder}")
        return 1
    passed = failed = 0
    for path in files:
        for outcome in check_file(path):
            verdict = "ok" if outcome.passed else "FAILED"
            print(f"{path.stem}: {outcome.case}  max error {outcome.error:.2e}, allowed {outcome.limit:g}  {verdict}")
            passed, failed = passed + outcome.passed, failed + (not outcome.passed)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.golden DIR")
    sys.exit(main(Path(sys.argv[1])))
