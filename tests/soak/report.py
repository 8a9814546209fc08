# SPDX-License-Identifier: Apache-2.0
"""What a run has found, as lines, tables and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from tests.soak.phases import PhaseReport
    from tests.soak.scenarios import Outcome

FILE_COLUMNS = 170
"""Width of the tables where no terminal says how wide it is."""


def describe(outcome: Outcome) -> str:
    """A line for whoever watches: when, what, which faults at which share of the host's blocks, and how it ended."""
    strikes = ", ".join(
        f"{one.kind} at {one.progress:.0%}"
        + (f" for {one.pause_s:.1f} s" if 0 < one.pause_s < 1e3 else "")
        + (f" (back in {one.reconnect_s:.2f} s)" if one.reconnect_s is not None else "")
        for one in outcome.strikes
    )
    end = "; ".join(f"VIOLATION {text}" for text in outcome.violations) or outcome.verdict
    at = time.strftime("%H:%M:%S", time.localtime(outcome.began))
    return f"{at} {outcome.name} {outcome.way} {outcome.seconds:.0f} s: {strikes or 'no fault'}: {end}"


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """One of the phases, and one of the long soak."""
    phases: list[PhaseReport] = report["phases"]
    if phases:
        columns = ("phase", "scenarios", "faults", "came out", "back: median / most", "server afterwards", "violations")
        table = Table(*columns, title=f"faults, seed {report['seed']}", title_justify="left")
        for phase in phases:
            back = phase.reconnections
            figures = phase.figures
            flat = ""
            if "rss_mib" in figures:
                flat = (
                    f"{figures['rss_mib']:.0f} MiB ({figures['rss_growth_mib']:+.1f}), "
                    f"{figures['files_last']:.0f} files, {figures['threads_last']:.0f} threads"
                )
            table.add_row(
                phase.phase,
                str(len(phase.outcomes)),
                ", ".join(f"{count} {kind}" for kind, count in sorted(phase.strikes.items())),
                _endings(phase),
                f"{back[len(back) // 2]:.2f} / {back[-1]:.2f} s of {len(back)}" if back else "",
                flat,
                str(len(phase.all_violations)),
            )
        yield table
    if report["soak"]:
        yield report["soak"].table()


def as_json(report: dict[str, Any]) -> dict[str, Any]:
    """For the file."""
    phases = [
        {
            "phase": phase.phase,
            "strikes": dict(phase.strikes),
            "reconnect_s": phase.reconnections,
            "figures": phase.figures,
            "violations": phase.all_violations,
            "outcomes": [outcome.as_json() for outcome in phase.outcomes],
        }
        for phase in report["phases"]
    ]
    return report | {"phases": phases, "soak": report["soak"].as_json() if report["soak"] else None}


def _endings(phase: PhaseReport) -> str:
    ends = {"same bits": 0, "dry": 0, "in time": 0, "struck": 0, "killed": 0}
    for outcome in phase.outcomes:
        for end in ends:
            ends[end] += outcome.verdict.startswith(end)
    return ", ".join(f"{count} {end}" for end, count in ends.items() if count)
