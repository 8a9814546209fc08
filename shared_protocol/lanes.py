# SPDX-License-Identifier: Apache-2.0
"""The lane registry, read from `lanes.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

GRID_POINTS = 1e5
"""Lane values are settled on a grid of so many points per unit: it undoes the rounding of hosts, which carry parameters as
proportions, so that a value drawn in two hosts has the same bits."""


class Lane(msgspec.Struct, frozen=True, rename={"propagation": "class", "minimum": "min", "maximum": "max"}):
    """One row of the table; see the head of `lanes.toml` for the meaning of the fields."""

    id: str
    name: str
    unit: str
    display: Literal["plain", "percent", "factor", "decibel", "count"]
    group: str
    minimum: float
    maximum: float
    default: float
    skew: float
    propagation: Literal["step", "submission", "output"]
    resolution: Literal["frame", "hop", "block"]
    acts_on: str
    help: str

    def __post_init__(self) -> None:
        if not (self.minimum <= self.default <= self.maximum and self.minimum < self.maximum and self.skew > 0):
            raise ValueError(f"lane {self.id}: range, default or skew make no sense")


@cache
def load_lanes() -> Mapping[str, Lane]:
    """All lanes by id, in the order of the table."""
    text = resources.files("shared_protocol").joinpath("lanes.toml").read_text(encoding="utf-8")
    rows = msgspec.convert(tomllib.loads(text)["lane"], list[Lane])
    lanes = {row.id: row for row in rows}
    if len(lanes) != len(rows):
        raise ValueError("lanes.toml: a lane id appears twice")
    return MappingProxyType(lanes)


def settle(lane: Lane, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values inside the lane's range, on the grid; the same bits as `settledLaneValue` of the plugin."""
    wide = values.astype(np.float64)
    settled = (np.sign(wide) * np.floor(np.abs(wide) * GRID_POINTS + 0.5) / GRID_POINTS).astype(np.float32)
    return np.clip(settled, np.float32(lane.minimum), np.float32(lane.maximum))


def markdown_table() -> str:
    """The documentation table (`docs/lanes.md` holds it; a test compares)."""
    head = "| id | name | range | default | class | resolution | acts on | what it does |\n|---|---|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| `{lane.id}` | {lane.name} | {lane.minimum:g} to {lane.maximum:g} {lane.unit}".rstrip()
        + f" | {lane.default:g} | {lane.propagation} | {lane.resolution} | {lane.acts_on} | {lane.help} |\n"
        for lane in load_lanes().values()
    )
