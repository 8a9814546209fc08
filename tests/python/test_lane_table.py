# SPDX-License-Identifier: Apache-2.0
"""Lane memory on the engine's side, against a table that is edited value by value."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine_server.model.windows import Span
from engine_server.tracks.lane_table import LaneTable
from engine_server.tracks.rhythm import SECONDS, Rhythm

LANES = ("denoise", "unheard_of", "velocity_scale")
FRAMES = 400
spans = st.tuples(st.integers(0, 2), st.integers(0, FRAMES - 1), st.integers(1, FRAMES), st.floats(0, 1, width=32))


@given(st.lists(st.lists(spans, min_size=1, max_size=5), max_size=6), st.integers(1, 200))
def test_edits_act_in_order(batches, chunk):
    table, plain = LaneTable(LANES), np.full((FRAMES, 3), 0.5, dtype=np.float32)
    for first in range(0, FRAMES, chunk):
        table.append(plain[first : first + chunk])
    for batch in batches:
        rows = [(column, first, min(first + length, FRAMES), value) for column, first, length, value in batch]
        before = plain.copy()
        for column, first, stop, value in rows:
            plain[first:stop, column] = value
        revision = table.revision
        table.edit(np.array(rows, dtype=np.float32))
        assert table.revision > revision or np.array_equal(before, plain)
    for column, lane in enumerate(LANES):
        assert np.array_equal(table.lane(lane, Span(0, FRAMES)), plain[:, column])
        outside = table.lane(lane, Span(-3, FRAMES + 3))
        assert (outside[:4] == plain[0, column]).all()
        assert (outside[-4:] == plain[-1, column]).all()


def test_a_lane_that_is_not_sent_holds_its_default():
    table = LaneTable(LANES)
    table.append(np.zeros((5, 3), dtype=np.float32))
    assert (table.lane("guidance", Span(0, 5)) == 1.0).all()


def test_what_was_read_does_not_change_with_later_edits():
    table = LaneTable(LANES)
    table.append(np.zeros((5, 3), dtype=np.float32))
    read = table.lane("denoise", Span(0, 5))
    table.edit(np.float32([[0, 0, 5, 1.0]]))
    assert not read.any()


def test_a_rhythm_is_counted_over_seconds_and_ends():
    rhythm = Rhythm()
    assert rhythm.per_second(5.0) == 0.0
    for k in range(100):
        rhythm.beat(10.0 + k / 8)
    assert abs(rhythm.per_second(10.0 + 99 / 8) - 8.0) < 0.1
    assert rhythm.per_second(10.0 + 100 / 8 + SECONDS) == 0.0
