# SPDX-License-Identifier: Apache-2.0
"""What parts of an evaluation report: figures, listings of rows, and the whole as a table and as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.evaluation.targets import Target, target_of

INTERVALS = "interval: of a share its Wilson 95 % interval, of a mean the 10th to 90th percentile, else as noted"


@dataclass(frozen=True)
class Figure:
    """One number. `name` is unique within its part; docs/evaluation.md says how it is defined."""

    name: str
    value: float
    unit: str = ""
    cases: int = 1
    interval: tuple[float, float] | None = None
    """Of a share its Wilson 95 % interval, of a mean the 10th and 90th percentile of the cases, else as the note says."""
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """Rows of a table that no single number sums up."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    is_printed: bool = True
    """Whether it is read at the terminal; it is in the JSON anyway."""


@dataclass
class PartResult:
    """What a part of the evaluation found."""

    part: str
    figures: list[Figure] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, item: Figure | Listing) -> None:
        """Take what a part yields."""
        if isinstance(item, Figure):
            self.figures.append(item)
        else:
            self.listings.append(item)

    def target_of(self, figure: Figure) -> Target | None:
        """What a figure should reach, if anything."""
        return target_of(self.part, figure.name)


def share(name: str, hits: int, cases: int, note: str = "") -> Figure:
    """A proportion with its Wilson 95 % interval."""
    return Figure(name, hits / max(1, cases), "", cases, wilson(hits, cases), note)


def mean(name: str, values: Sequence[float], unit: str = "", note: str = "") -> Figure:
    """The mean of several cases, with the 10th and 90th percentile as its interval; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return Figure(name, math.nan, unit, 0, None, note)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.1, 0.9))
    return Figure(name, sum(ordered) / len(ordered), unit, len(ordered), (low, high), note)


def wilson(hits: int, cases: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion; (0, 1) of no cases. Wilson 1927."""
    if cases == 0:
        return 0.0, 1.0
    p, share_of_z = hits / cases, z * z / cases
    middle = (p + share_of_z / 2) / (1 + share_of_z)
    half = z * math.sqrt(p * (1 - p) / cases + share_of_z / (4 * cases)) / (1 + share_of_z)
    return max(0.0, middle - half), min(1.0, middle + half)


def print_part(console: Console, result: PartResult) -> None:
    """A part's figures and listings, as tables."""
    table = Table("figure", title=f"{result.part}, {result.seconds:.0f} s", title_justify="left", caption=INTERVALS)
    for heading in ("value", "interval", "cases", "target", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for figure in result.figures:
        target = result.target_of(figure)
        table.add_row(
            figure.name,
            f"{shown(figure.value)} {figure.unit}".rstrip(),
            "" if figure.interval is None else "{}..{}".format(*map(shown, figure.interval)),
            str(figure.cases),
            "" if target is None else str(target),
            "" if target is None else ("[green]pass[/green]" if target.is_met(figure.value) else "[red]FAIL[/red]"),
            figure.note,
        )
    console.print(table)
    for listing in result.listings:
        if not listing.is_printed:
            continue
        rows = Table(*listing.columns, title=listing.title, title_justify="left", caption=listing.note or None)
        for row in listing.rows:
            rows.add_row(*(shown(cell) if isinstance(cell, float) else str(cell) for cell in row))
        console.print(rows)


def shown(value: float) -> str:
    """A number for reading: three digits, no exponent where it can be helped."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3f}" if 1e-3 <= abs(value) < 10 else f"{value:.3g}"


def as_json(head: Mapping[str, Any], results: Sequence[PartResult]) -> dict[str, Any]:
    """Everything, for machines. A figure's `met` is null where it has no target."""
    parts = {}
    for result in results:
        figures = []
        for figure in result.figures:
            target = result.target_of(figure)
            figures.append(
                {
                    "name": figure.name,
                    "value": figure.value if math.isfinite(figure.value) else None,
                    "unit": figure.unit,
                    "cases": figure.cases,
                    "interval": figure.interval,
                    "note": figure.note,
                    "target": None if target is None else str(target),
                    "met": None if target is None else target.is_met(figure.value),
                }
            )
        listings = [
            {"title": each.title, "columns": each.columns, "rows": [list(row) for row in each.rows], "note": each.note}
            for each in result.listings
        ]
        parts[result.part] = {"seconds": result.seconds, "figures": figures, "listings": listings}
    return {**head, "parts": parts}


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report, making its folder. A reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
