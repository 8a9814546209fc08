# SPDX-License-Identifier: Apache-2.0
"""The bench runs and reports in its form. What it measures is judged by whoever runs it, never here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench.measure import Row, Target, compared

ROOT = Path(__file__).parents[2]
FIELDS = {
    "section", "name", "measured", "against", "baseline", "unit", "ratio_range", "target", "error", "note", "ratio", "met",
}  # fmt: skip


def test_a_quick_run_prints_a_table_and_writes_rows_with_the_machine_they_are_from(tmp_path):
    report_path = tmp_path / "new" / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", "forward", "--json", str(report_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "diffusers' own" in done.stdout

    report = json.loads(report_path.read_text())
    assert report["quick"] is True
    assert {"processor", "threads", "torch", "commit"} <= report["machine"].keys()
    assert report["machine"]["torch"] == torch.__version__
    assert len(report["rows"]) == 3
    for row in report["rows"]:
        assert row.keys() == FIELDS
        assert row["section"] == "forward"
        assert row["measured"] > 0
        assert row["ratio"] == pytest.approx(row["baseline"] / row["measured"])
        assert row["ratio_range"][0] <= row["ratio_range"][1]
        assert (row["met"] is None) == (row["target"] is None)
    exact, rounded, _ = report["rows"]
    assert exact["error"] == 0.0
    assert 0 < rounded["error"] < 0.04


def test_an_unknown_section_is_refused_with_the_ones_that_there_are():
    command = [sys.executable, "-m", "tests.bench", "--only", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "forward" in done.stderr


@pytest.mark.parametrize(("unit", "ratio"), [("ms", 0.5), ("MiB", 0.5), ("ticks/s", 2.0), ("generations/s", 2.0)])
def test_a_ratio_above_one_is_better_whatever_the_unit(unit, ratio):
    assert Row("ours", 4.0, "theirs", 2.0, unit).ratio == ratio


def test_a_target_is_a_least_ratio_or_a_most_measured_value():
    row = Row("ours", 4.0, "theirs", 6.0, "ms")
    assert Target("ratio", 1.5).is_met(row)
    assert not Target("ratio", 1.51).is_met(row)
    assert Target("measured", 4.0).is_met(row)
    assert not Target("measured", 3.99).is_met(row)
    with pytest.raises(ValueError, match="of is 'error'"):
        Target("error", 1.0)


def test_series_are_compared_by_their_medians_and_their_rounds_give_the_range():
    row = compared("ours", [0.001, 0.002, 0.009], "theirs", [0.003, 0.004, 0.009])
    assert (row.measured, row.baseline, row.unit) == (2.0, 4.0, "ms")
    assert row.ratio_range == (1.0, 3.0)
