# SPDX-License-Identifier: Apache-2.0
"""The benchmark's lines in a table that grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine_server.bench.lines import Line, is_judged, targets

COLUMNS = (
    ("model", 8),
    ("length", 6),
    ("depth", 5),
    ("backend", 12),
    ("rows", 4),
    ("floor ms", 8),
    ("tick ms", 8),
    ("p99 ms", 8),
    ("floors", 6),
    ("gen/s", 7),
    ("converges ms", 12),
    ("outside", 7),
    ("decode ms", 9),
    ("waits", 5),
    ("decoder, encoders, codec, ring, peak GB", 39),
)
SIZES = 4
"""Columns before the figures."""
WIDTH = sum(width + 2 for _, width in COLUMNS)
LEGEND = (
    "rows: of a tick's forwards, whose batches are filled up; "
    "floor: the arithmetic of a row for each slot at the rate of the product of large matrices; floors: tick over floor; "
    "converges: from submission to latents in a full ring, 8 steps; outside: share of a tick outside the forward; "
    "decode: 3 s of audio, eager in float32; waits: calls in a tick that wait for the GPU; "
    "GB: what torch allocated for weights (encoders: of text, condition and structure) and for the ring, and the most at once."
)


def show_head(console: Console, about: str) -> None:
    """What is measured on, what the columns mean, and their names."""
    console.print(about, highlight=False, soft_wrap=True)
    console.print(LEGEND, highlight=False, soft_wrap=True)
    _print_row(console, [name for name, _ in COLUMNS])


def show_line(console: Console, line: Line) -> None:
    """A line of the table; with its targets, if there are any for it."""
    what, figures = line.what, line.figures
    machinery = f"{what.backend} {what.quantization or ''}".rstrip()
    cells = [what.model.name, f"{what.duration_s:g} s", str(what.depth), machinery]
    if figures is None:
        _print_row(console, cells, f"not run: {line.reason}")
        return
    memory = figures.memory
    parts = () if memory is None else astuple(memory)
    ticks = (figures.rows, figures.floor_ms, figures.tick_ms, figures.tick_p99_ms, figures.over_floor)
    cells += [_number(each) for each in ticks]
    cells += [_number(figures.generations_per_s), _number(figures.convergence_ms), f"{100 * figures.outside:.1f} %"]
    cells += [_number(figures.decode_ms), "-" if figures.waits_per_tick is None else f"{figures.waits_per_tick:g}"]
    _print_row(console, [*cells, ", ".join(f"{part / 1e9:.2f}" for part in parts) or "-"])
    if is_judged(what):
        console.print("  wanted on an H200 in bfloat16: " + "; ".join(map(str, targets(what, figures))), soft_wrap=True)


def _print_row(console: Console, cells: Sequence[str], remark: str = "") -> None:
    """A table of one row, with the widths of all others: it can be printed as soon as it is known."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number, (_, width) in enumerate(COLUMNS[: len(cells)]):
        table.add_column(width=width, no_wrap=True, justify="left" if number < SIZES else "right")
    if remark:
        table.add_column(overflow="fold")
    table.add_row(*map(escape, cells), *([escape(remark)] if remark else []))
    console.print(table, highlight=False)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
