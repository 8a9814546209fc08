# SPDX-License-Identifier: Apache-2.0
"""Lane curves outside a host: from the command line or a script to a table of values per frame."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine_server.tracks.lanes import ACTED_LANES
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.lanes import Lane, load_lanes, settle
from shared_protocol.timebase import FRAMES_PER_SECOND

HALF_SAMPLE = 0.5 / 192_000
"""Seconds; breakpoints written with few decimals still fall on the frame they mean."""


@dataclass(frozen=True)
class CurveTable:
    """Values `[frames, lanes]` of the lanes that the engine acts on, in the order of `lanes`."""

    lanes: tuple[str, ...]
    values: Floats

    def extended(self, frames: int) -> Floats:
        """The values for so many frames, the last one held."""
        missing = frames - self.values.shape[0]
        return np.concatenate([self.values, np.repeat(self.values[-1:], max(0, missing), axis=0)])[:frames]


def build_table(
    curves: Mapping[str, float | Floats], frames: int, acted_lanes: tuple[str, ...] = ACTED_LANES
) -> CurveTable:
    """A table of `acted_lanes` from constants and curves by lane id; the other lanes hold their default.

    A shorter curve holds its last value, a longer one is cut. Raises DemonError `E_LANE_UNKNOWN` or `E_LANE_RANGE`.
    """
    rows = load_lanes()
    values = np.empty((frames, len(acted_lanes)), dtype=np.float32)
    for lane in curves:
        _check_known(lane, acted_lanes)
    for column, lane in enumerate(acted_lanes):
        curve = np.atleast_1d(np.asarray(curves.get(lane, rows[lane].default), dtype=np.float32))
        check_range(rows[lane], curve)
        values[:, column] = settle(rows[lane], curve)[np.minimum(np.arange(frames), len(curve) - 1)]
    return CurveTable(acted_lanes, values)


def check_range(lane: Lane, values: Floats) -> None:
    """Raise DemonError `E_LANE_RANGE` for a value outside the lane's range, NaN included."""
    low, high = np.float32(lane.minimum), np.float32(lane.maximum)
    if values.size == 0 or not bool(((values >= low) & (values <= high)).all()):
        raise DemonError("E_LANE_RANGE", f"{lane.id} takes values from {lane.minimum:g} to {lane.maximum:g}")


def parse_lane(text: str, frames: int, acted_lanes: tuple[str, ...] = ACTED_LANES) -> tuple[str, float | Floats]:
    """`denoise=0.6` or `denoise=curve.csv` as (lane id, value or curve of `frames` values)."""
    lane, separator, value = text.partition("=")
    if not separator:
        raise DemonError("E_LANE_UNKNOWN", f"--lane takes NAME=VALUE or NAME=FILE.csv, not {text!r}")
    _check_known(lane, acted_lanes)
    try:
        return lane, float(value)
    except ValueError:
        return lane, read_curve(Path(value), frames)


def read_curve(path: Path, frames: int) -> Floats:
    """A curve of `frames` values from a CSV file.

    One column: a value per frame. Two columns: seconds and value, each value held from its time to the next; the first also
    before its time. A first line that is not numbers is skipped. Raises DemonError `E_CURVE_FILE`.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if rows and not _is_number(rows[0][0]):
            rows = rows[1:]
        table = np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64)
    except (OSError, ValueError, csv.Error) as error:
        raise DemonError("E_CURVE_FILE", f"{path}: {error}") from error
    if table.ndim != 2 or table.shape[1] not in (1, 2) or not np.isfinite(table).all():
        raise DemonError("E_CURVE_FILE", f"{path} must have one column (values per frame) or two (seconds, value)")
    if table.shape[1] == 1:
        return table[:, 0].astype(np.float32)
    if (np.diff(table[:, 0]) <= 0).any():
        raise DemonError("E_CURVE_FILE", f"{path}: the times must increase")
    times = np.arange(frames) / FRAMES_PER_SECOND
    index = np.searchsorted(table[:, 0], times + HALF_SAMPLE, side="right") - 1
    held: Floats = table[np.maximum(index, 0), 1].astype(np.float32)
    return held


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_known(lane: str, acted_lanes: tuple[str, ...]) -> None:
    if lane not in load_lanes():
        raise DemonError("E_LANE_UNKNOWN", f"there is no lane {lane!r}; see docs/lanes.md")
    if lane not in acted_lanes:
        raise DemonError("E_LANE_UNKNOWN", f"the engine does not act on {lane!r}; it acts on {', '.join(acted_lanes)}")
