# SPDX-License-Identifier: Apache-2.0
"""The lane values of a clip, frame by frame: recorded as they are fed, changed by edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine_server.model.windows import Span
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.lanes import load_lanes

FIRST_ROOM = 256


class LaneTable:
    """Values `[frames, columns]`; frames count from the clip's first. One thread.

    Lanes that are not among the columns hold their default. Columns of unknown lanes hold anything finite.
    """

    def __init__(self, lanes: Sequence[str]) -> None:
        self._columns: Mapping[str, int] = {lane: column for column, lane in enumerate(lanes)}
        self._lanes = tuple(lanes)
        rows = load_lanes()
        self._low = np.array([rows[i].minimum if i in rows else -np.inf for i in lanes], dtype=np.float32)
        self._high = np.array([rows[i].maximum if i in rows else np.inf for i in lanes], dtype=np.float32)
        self._values = np.empty((FIRST_ROOM, len(self._lanes)), dtype=np.float32)
        self.frames = 0
        self.revision = 0
        """Grows with every edit that changed a value."""

    def append(self, values: Floats) -> None:
        """The values `[n, columns]` of the next frames."""
        stop = self.frames + len(values)
        if stop > len(self._values):
            more = np.empty((max(stop, 2 * len(self._values)), len(self._lanes)), dtype=np.float32)
            more[: self.frames] = self._values[: self.frames]
            self._values = more
        self._values[self.frames : stop] = values
        self.frames = stop

    def edit(self, edits: Floats) -> None:
        """Apply edits `[n, 4]` (column, first frame, frame after the last, value) in order, or none of them.

        Raises DemonError `E_FIELD` for a column or a span that is not there, `E_LANE_RANGE` for a value.
        """
        self._check(edits)
        values, before = self._values, self._values[: self.frames].copy()
        for (column, first, stop), value in zip(
            edits[:, :3].astype(np.int64).tolist(), edits[:, 3].tolist(), strict=True
        ):
            values[first:stop, column] = value
        self.revision += not np.array_equal(before, values[: self.frames])

    def lane(self, lane_id: str, span: Span) -> NDArray[np.float32]:
        """A lane's values `[T]` over frames of the clip; before its first and after its last frame the nearest one's."""
        column = self._columns.get(lane_id)
        if column is None or self.frames == 0:
            return np.full(len(span), load_lanes()[lane_id].default, dtype=np.float32)
        if span.first >= 0 and span.stop <= self.frames:
            return self._values[span.first : span.stop, column].copy()
        return self._values[np.clip(np.arange(span.first, span.stop), 0, self.frames - 1), column]

    def _check(self, edits: Floats) -> None:
        places, values = edits[:, :3], edits[:, 3]
        if (places != np.floor(places)).any():
            raise DemonError("E_FIELD", "columns and frames of edits must be whole numbers")
        column, first, stop = places.T
        if ((column < 0) | (column >= len(self._lanes))).any():
            raise DemonError("E_FIELD", f"an edit's column must be one of the {len(self._lanes)} lanes of hello")
        if ((first < 0) | (first >= stop) | (stop > self.frames)).any():
            raise DemonError("E_FIELD", f"an edit's frames must lie within the {self.frames} of the clip, and be some")
        columns = column.astype(np.int64)
        wrong = (values < self._low[columns]) | (values > self._high[columns])
        if wrong.any():
            lane = load_lanes()[self._lanes[int(columns[np.flatnonzero(wrong)[0]])]]
            raise DemonError("E_LANE_RANGE", f"{lane.id} takes values from {lane.minimum:g} to {lane.maximum:g}")
