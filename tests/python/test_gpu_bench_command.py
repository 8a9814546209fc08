# SPDX-License-Identifier: Apache-2.0
"""`demon bench gpu` as a command: lines and file as they become known, what could not be run, Ctrl-C, and what is wanted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from engine_server.bench import lines as bench_lines
from engine_server.bench.lines import Target, is_judged, targets
from engine_server.bench.measure import Combination, DeviceMemory, Figures
from engine_server.bench.models import MODELS
from engine_server.cli import app

ON_GPU = Figures(
    rows=4.0, tick_ms=13.0, tick_p99_ms=14.0, floor_ms=10.0, generations_per_s=29.0, convergence_ms=110.0, outside=0.02,
    decode_ms=2.5, waits_per_tick=0.0, ticks=16,
    memory=DeviceMemory(decoder=3 * 10**9, encoders=2 * 10**9, codec=7 * 10**8, ring=2 * 10**8, peak=7 * 10**9),
)  # fmt: skip


def run(tmp_path, *arguments, status=0):
    path = tmp_path / "bench.json"
    command = ["bench", "gpu", "--device", "cpu", "--seconds", "0", "--duration", "1", "--json", str(path), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == status, result.output
    return result.output, json.loads(path.read_text()) if path.exists() else None


def test_a_line_is_measured_on_the_cpu_and_what_cannot_run_there_says_why(tmp_path):
    output, report = run(tmp_path, "--depth", "2", "--backend", "tensorrt", "--backend", "eager")
    unable, able = report["lines"]
    assert (able["model"], able["duration_s"], able["depth"], able["backend"]) == ("embedded", 1.0, 2, "eager")
    assert able["quantization"] is None
    figures = able["figures"]
    assert figures["floor_ms"] == pytest.approx(1000 * able["tick_flops"] / report["flops_per_s"])
    assert figures["over_floor"] == pytest.approx(figures["tick_ms"] / figures["floor_ms"])
    assert figures["memory"] is None
    assert unable["figures"] is None
    assert unable["reason"].startswith("E_BACKEND: ")
    assert "not run: E_BACKEND: " in output
    assert report["dtype"] == "float32"


def test_a_quantization_is_measured_and_named(tmp_path):
    output, report = run(tmp_path, "--depth", "1", "--quantization", "fp8")
    (line,) = report["lines"]
    assert (line["backend"], line["quantization"]) == ("eager", "fp8")
    assert line["figures"]["tick_ms"] > 0
    assert "eager fp8" in output


def test_a_full_memory_is_a_line_and_ctrl_c_leaves_the_lines_so_far(tmp_path, monkeypatch):
    results = iter([torch.OutOfMemoryError("CUDA out of memory"), ON_GPU, KeyboardInterrupt()])

    def measure(*_, **__):
        result = next(results)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(bench_lines, "measure", measure)
    output, report = run(tmp_path, "--depth", "1", "--depth", "4", "--depth", "8", status=130)
    full, measured = report["lines"]
    assert full["reason"].startswith("E_MEMORY: ")
    assert measured["figures"]["memory"] == {"decoder": 3e9, "encoders": 2e9, "codec": 7e8, "ring": 2e8, "peak": 7e9}
    assert "3.00, 2.00, 0.70, 0.20, 7.00" in output
    assert "interrupted after 2 of 3 lines" in output


def test_a_file_that_cannot_be_and_an_unknown_model_are_refused_before_anything_is_measured(tmp_path):
    refused = CliRunner().invoke(app, ["bench", "gpu", "--json", str(tmp_path / "none" / "bench.json")])
    assert (refused.exit_code, "floor" in refused.output) == (1, False)
    unknown = CliRunner().invoke(app, ["bench", "gpu", "--model", "3b"])
    assert (unknown.exit_code, "floor" in unknown.output) == (2, False)


def test_targets_are_of_2b_at_60_s_and_depth_4():
    judged = Combination(MODELS["2b"], 60.0, 4, "eager")
    assert is_judged(judged)
    assert not is_judged(Combination(MODELS["xl"], 60.0, 4, "eager"))
    assert not is_judged(Combination(MODELS["2b"], 60.0, 8, "eager"))
    told = [str(target) for target in targets(judged, ON_GPU)]
    assert [text.rpartition(", ")[2] for text in told] == ["met", "missed", "met", "met", "met", "met"]
    assert told[1] == "generations/s >= 30: 29, missed"
    quantized = [str(target) for target in targets(replace(judged, quantization="fp8"), ON_GPU)]
    assert quantized[0] == "tick in ms <= 10: 13, missed"
    assert quantized[1:] == told[2:]
    assert str(Target("GB", None, 12)) == "GB <= 12: not measured"
