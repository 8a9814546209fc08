# SPDX-License-Identifier: Apache-2.0
"""An evaluation on one page: figures against their targets, dose curves, confusions, lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from training.evaluation.report import Listing, PartResult, shown

PANEL_IN = 7.0
COLUMNS = 2
GOOD, BAD, INK = "#2f7d4f", "#b3402e", "#33415c"
LONGEST = 3.0
"""Values are drawn as multiples of their targets, up to this one."""
CONFUSIONS = "prompted (rows) and heard, denoise 1"

Panel = Callable[[Axes], None]


def draw(path: Path, head: Mapping[str, Any], results: Sequence[PartResult]) -> None:
    """Write the page as a picture, making its folder."""
    panels = [lambda axis: _targets(axis, results), *_panels(results)]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * PANEL_IN, rows * PANEL_IN), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.suptitle(f"{head['model']} {head['content_hash'][:12]}, guidance {head['guidance']:g}")
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def _panels(results: Sequence[PartResult]) -> list[Panel]:
    drawings: Mapping[str, Callable[[Axes, Listing], None]] = {
        "dose": _dose,
        CONFUSIONS: _confusions,
        "lanes": _distances,
        "parameters": _distances,
        "loras": _distances,
        "codec, rendered": _excerpts,
    }
    panels: list[Panel] = []
    for result in results:
        for listing in result.listings:
            if drawing := drawings.get(listing.title):
                panels.append(lambda axis, drawing=drawing, listing=listing: drawing(axis, listing))  # type: ignore[misc]
    return panels


def _targets(axis: Axes, results: Sequence[PartResult]) -> None:
    """A bar per figure that has a target: its value against it."""
    labels, lengths, colours = [], [], []
    for result in results:
        for figure in result.figures:
            target = result.target_of(figure)
            if target is None:
                continue
            limit = target.low if np.isfinite(target.low) else target.high
            labels.append(f"{result.part}: {figure.name}  {shown(figure.value)} ({target})")
            lengths.append(min(LONGEST, figure.value / limit) if limit else float(figure.value != 0))
            colours.append(GOOD if target.is_met(figure.value) else BAD)
    places = np.arange(len(labels))
    axis.barh(places, lengths, color=colours, height=0.7)
    axis.axvline(1.0, color=INK, linewidth=1)
    axis.set_yticks(places, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, LONGEST)
    axis.set_title("values as multiples of their targets; green: reached")


def _dose(axis: Axes, listing: Listing) -> None:
    """Latent distance (solid) and log-mel distance (dashed) by level."""
    for index, control in enumerate(dict.fromkeys(row[0] for row in listing.rows)):
        rows = [row for row in listing.rows if row[0] == control]
        for column, style, name in ((2, "-o", "latents, RMS"), (3, "--o", "log-mel, nat")):
            x, y = ([row[place] for row in rows] for place in (1, column))
            axis.plot(x, y, style, color=f"C{index}", label=f"{control}: {name}")
    axis.set_xlabel("level")
    axis.set_title("distance from the source")
    axis.legend(fontsize=8)


def _confusions(axis: Axes, listing: Listing) -> None:
    counts = np.array([row[1:] for row in listing.rows], dtype=float)
    axis.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if count > counts.max() / 2 else INK
            axis.text(column, row, f"{count:g}", ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(range(len(counts)), listing.columns[1:], rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(counts)), [row[0] for row in listing.rows], fontsize=8)
    axis.set_title(listing.title)


def _distances(axis: Axes, listing: Listing) -> None:
    """A bar per row of a listing with a log-mel distance."""
    column = listing.columns.index("log-mel distance, nat")
    labels = [row[0] if column == 1 else f"{row[0]} = {row[1]}" for row in listing.rows]
    places = np.arange(len(labels))
    axis.barh(places, [row[column] for row in listing.rows], color=INK)
    axis.set_yticks(places, labels, fontsize=5 if len(labels) > 30 else 8)
    axis.invert_yaxis()
    axis.set_xlabel("log-mel distance, nat")
    axis.set_title(listing.title)


def _excerpts(axis: Axes, listing: Listing) -> None:
    """Note F1 against log-mel distance, a dot per excerpt."""
    x, y = (listing.columns.index(name) for name in ("log_mel_nat", "note_f1"))
    axis.scatter([row[x] for row in listing.rows], [row[y] for row in listing.rows], color=INK, s=14)
    axis.set_xlabel("log-mel distance, nat")
    axis.set_ylabel("note F1")
    axis.set_title(listing.title)
