# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench`: measure, print a table, write JSON."""

from __future__ import annotations

import os

# Before torch is imported: spinning threads disturb what is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SECTIONS = (
    "forward", "attention", "compiling", "ring", "step", "scaling", "memory", "tracks", "load", "link", "plugin", "knob",
    "packing",
)  # fmt: skip
FILE_COLUMNS = 170
"""Width of the tables where no terminal says how wide it is."""


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed and memory, against baselines.")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean little")
    parser.add_argument("--json", type=Path, default=Path("out/bench.json"), help="file to write (out/bench.json)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be repeated")
    arguments = parser.parse_args()

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from tests.bench.machine import describe_machine
    from tests.bench.models import Effort

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
    effort, rows = Effort(arguments.quick), []
    for section in arguments.only or SECTIONS:
        began = time.perf_counter()
        measured = list(import_module(f"tests.bench.{section}").rows(effort))
        rows += [{"section": section, **row.as_json()} for row in measured]
        console.print(_table(f"{section}, {time.perf_counter() - began:.0f} s", measured))
    report = {"quick": arguments.quick, "machine": describe_machine(), "rows": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"{arguments.json}; ratio: how many times better than the baseline")


def _table(title: str, rows: list[Any]) -> Table:
    table = Table("what", "against", title=title, title_justify="left")
    for heading in ("ratio", "of rounds", "measured", "baseline", "target", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        low_high = "" if row.ratio_range is None else "{:.2f}..{:.2f}".format(*row.ratio_range)
        verdict = "" if row.target is None else f"{row.target} {'met' if row.met else '[red]missed[/red]'}"
        table.add_row(
            f"{row.name}; {row.note}" if row.note else row.name,
            row.against,
            f"{row.ratio:.2f}",
            low_high,
            f"{row.measured:.3g} {row.unit}",
            f"{row.baseline:.3g}",
            verdict,
            "" if row.error is None else f"{row.error:.1e}",
        )
    return table


if __name__ == "__main__":
    main()
