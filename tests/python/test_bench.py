# SPDX-License-Identifier: Apache-2.0
"""The bench runs and reports in its form. What it measures is judged by whoever runs it, never here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.measure import Row, Target, compared
from tests.bench.scaling import keys_in_band, operations_per_token

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


@pytest.mark.parametrize(("tokens", "window"), [(1, 4), (5, 4), (6, 4), (30, 4), (9, 100)])
def test_the_keys_in_a_band_are_those_that_a_band_mask_leaves(tokens, window):
    index = torch.arange(tokens)
    within = (index[:, None] - index[None, :]).abs() <= window
    assert keys_in_band(tokens, window) == pytest.approx(float(within.float().sum(1).mean()))


def test_the_operations_of_a_token_are_those_that_torch_counts():
    """Without time embeddings, which do not grow with the tokens, and without the condition's own Linears."""
    torch.manual_seed(0)
    model = AceStepTransformer1DModel(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
        sliding_window=100,
    ).eval()  # fmt: skip
    tokens, condition_tokens = 20, 6

    def counted(tokens):
        latents = torch.zeros(1, 2 * tokens, 64)
        states, context = torch.zeros(1, condition_tokens, 32), torch.zeros(1, 2 * tokens, 128)
        # The counter knows matrix products, but not what is fused on the CPU.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(latents, torch.ones(1), torch.ones(1), states, context)
        return counter.get_total_flops()

    def modelled(tokens):
        return tokens * operations_per_token(model, tokens, condition_tokens)

    assert counted(2 * tokens) - counted(tokens) == modelled(2 * tokens) - modelled(tokens)
