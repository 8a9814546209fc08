# SPDX-License-Identifier: Apache-2.0
"""Lane curves from the command line and from files."""

from __future__ import annotations

import numpy as np
import pytest

from engine_server.tracks.curves import build_table, parse_lane, read_curve
from shared_protocol.errors import DemonError


def test_curves_from_files(tmp_path):
    (tmp_path / "steps.csv").write_text("seconds,value\n0.04,0.25\n0.12,1\n")
    np.testing.assert_array_equal(read_curve(tmp_path / "steps.csv", 5), np.float32([0.25, 0.25, 0.25, 1, 1]))
    (tmp_path / "values.csv").write_text("0.5\n0.75\n")
    lane, curve = parse_lane(f"denoise={tmp_path / 'values.csv'}", 4)
    table = build_table({lane: curve}, 4)
    np.testing.assert_array_equal(table.values[:, 0], np.float32([0.5, 0.75, 0.75, 0.75]))
    assert parse_lane("shift=2", 4) == ("shift", 2.0)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("denoise", "E_LANE_UNKNOWN"),
        ("loudness=1", "E_LANE_UNKNOWN"),
        ("mix=1", "E_LANE_UNKNOWN"),
        ("denoise=missing.csv", "E_CURVE_FILE"),
        ("denoise=1.5", "E_LANE_RANGE"),
        ("denoise=nan", "E_LANE_RANGE"),
    ],
)
def test_lane_arguments_that_make_no_sense_are_named(text, code):
    with pytest.raises(DemonError) as caught:
        build_table(dict([parse_lane(text, 4)]), 4)
    assert caught.value.code == code


@pytest.mark.parametrize("content", ["", "a,b\n", "1,2,3\n", "0,1\n0,2\n", "1\nx\n", "nan\n"])
def test_curve_files_that_make_no_sense_are_named(tmp_path, content):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(DemonError, match="E_CURVE_FILE"):
        read_curve(tmp_path / "c.csv", 4)
