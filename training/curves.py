# SPDX-License-Identifier: Apache-2.0
"""Draws the losses of all stages of training.

    python -m training.curves --work DIR
    python -m training.curves --size small --out losses.png --work DIR

A panel for each `<size>/*.jsonl` that `training.loop` wrote, a line for each loss.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from training.sizes import SIZES
from training.store import DEFAULT_WORK

COLUMNS = 3
PANEL_INCHES = (5.0, 3.2)


def read_curve(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    """Steps, and the losses at each. Of steps that a resumed run did again, the last counts."""
    by_step: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        by_step[int(row.pop("step"))] = row
    steps = sorted(by_step)
    names = by_step[steps[-1]] if steps else {}
    return steps, {name: [by_step[step].get(name, float("nan")) for step in steps] for name in names}


def draw(folder: Path, out: Path) -> int:
    """Draw every curve of a folder into a PNG; how many. Raises FileNotFoundError if there is none."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"there are no *.jsonl in {folder}")
    rows = -(-len(paths) // COLUMNS)
    width, height = PANEL_INCHES
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * width, rows * height), squeeze=False)
    for axis, path in zip(grid.flat, paths, strict=False):
        steps, losses = read_curve(path)
        for name, values in losses.items():
            axis.plot(steps, values, label=name, marker=".", linewidth=2.0 if name == "total" else 1.0)
        axis.set(title=path.stem, xlabel="step", yscale="log")
        axis.grid(which="both", alpha=0.2)
        if len(losses) > 1:
            axis.legend(fontsize="small")
    for axis in grid.flat[len(paths) :]:
        axis.set_axis_off()
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)
    plt.close(figure)
    return len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--out", type=Path, help="PNG; curves.png beside the curves by default")
    args = parser.parse_args()
    folder = args.work / args.size
    out = args.out or folder / "curves.png"
    print(f"{out}: {draw(folder, out)} curves")


if __name__ == "__main__":
    main()
