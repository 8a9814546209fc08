# SPDX-License-Identifier: Apache-2.0
"""`demon engines build`: real engines of the tiny decoder, for GPUs that are not here."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from trt_rig import oobleck
from typer.testing import CliRunner

from engine_server.cli import app
from engine_server.folders import data_folder
from engine_server.model.codec import OobleckCodec
from engine_server.model.recipes import RECIPES
from shared_protocol.errors import DemonError
from trt_engines import build_plan, builder, tensorrt_library
from trt_engines.build_report import NAME
from trt_engines.engine_folder import EngineFolder, file_hash
from trt_engines.engine_kinds import ModelShape, decoder_kind, window_decode_kind
from trt_engines.metadata import Machine, read_metadata

try:
    LIBRARY = tensorrt_library.load_tensorrt()
except DemonError as error:
    pytest.skip(str(error), allow_module_level=True)

NAME_60 = "decoder_fp32_b8_60s"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return data_folder() / "engines"


def run(*arguments, status=0):
    return invoke("build", *arguments, status=status)


def invoke(*arguments, status=0):
    result = CliRunner().invoke(app, ["engines", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def folder_of(home):
    (checkpoint,) = (child for child in home.iterdir() if child.is_dir())
    return checkpoint


def test_what_would_be_built_is_told_and_nothing_is_written(home, tiny_folder):
    said = run("--checkpoint", tiny_folder, "--all", "--for", "SM89", "--dry-run")
    for name in ("decoder_mixed_b8_60s", "decoder_mixed_b8_120s", "decoder_mixed_b8_240s"):
        assert name in said
    assert "not built yet" in said
    assert "not known yet" in said
    assert "has no engines" in said  # of its codec
    assert not home.exists()


def test_an_engine_is_built_once_and_again_when_something_changed(home, tiny_folder):
    given = ("--checkpoint", tiny_folder, "--decoder-only", "--precision", "fp32")
    assert NAME_60 in run(*given, "--for", "SM89")
    note = folder_of(home) / NAME_60 / "metadata.json"
    built = read_metadata(note)
    assert built.machine.compute_capability == "SM89"
    assert (note.parent / "engine.plan").stat().st_size == built.engine_bytes
    assert {child.name for child in folder_of(home).iterdir()} == {"_onnx", NAME_60}
    before = note.read_bytes()
    assert "nothing" in run(*given, "--for", "SM89")
    assert note.read_bytes() == before
    assert "built for SM89" in run(*given, "--for", "SM120")
    assert read_metadata(note).machine.compute_capability == "SM120"
    assert (home / NAME).read_text().count(NAME_60) == 2
    assert "last time" in run(*given, "--for", "SM120", "--dry-run")
    assert "asked for" in run(*given, "--for", "SM120", "--force-onnx", "--dry-run")


def test_a_build_that_is_interrupted_leaves_the_engine_that_was_there(home, tiny, tiny_folder, monkeypatch):
    folder = EngineFolder(home, str(tiny_folder), tiny.content_hash)
    kind = decoder_kind(ModelShape("", None), 60, precision="fp32")
    place = folder.engine(kind)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"old")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "build_engine", interrupted)
    run("--checkpoint", tiny_folder, "--decoder-only", "--precision", "fp32", "--for", "SM89", status=130)
    assert place.read_bytes() == b"old"
    assert {child.name for child in folder.path.iterdir()} == {"_onnx", kind.name}
    assert "interrupted" in (home / NAME).read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--duration", "90", "--for", "SM90"), "90 s"),
        (("--decoder-only", "--vae-only"), "nothing to build"),
        (("--for", "SM3", "--dry-run"), "does not build for SM3; it builds for SM75, "),
        (("--for", "SM86", "--precision", "fp8"), "SM86 has no FP8: that begins with SM89"),
        (("--for", "SM89", "--decoder-only", "--precision", "fp8"), "run: demon engines calibrate --checkpoint"),
        (("--for", "SM89", "--vae-only"), "nothing to build"),
    ],
)
def test_what_cannot_be_built_is_told(home, tiny_folder, arguments, word):
    result = CliRunner().invoke(app, ["engines", "build", "--checkpoint", str(tiny_folder), *arguments])
    assert result.exit_code != 0
    assert word in result.output + result.stderr


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.random.default_rng(5).normal(0, 0.1, (24_000, 2)), 48_000)
    return path


def test_an_fp8_engine_is_built_by_a_calibration_and_again_by_another(home, tiny_folder, song):
    def calibrated(*music):
        said = invoke("calibrate", *music, "--checkpoint", tiny_folder)
        assert str(folder_of(home)) in said

    given = ("--checkpoint", tiny_folder, "--decoder-only", "--precision", "fp8", "--for", "SM89")
    calibrated(song)
    assert "decoder_fp8_b8_60s" in run(*given)
    note = folder_of(home) / "decoder_fp8_b8_60s" / "metadata.json"
    first, graph = read_metadata(note), folder_of(home) / "_onnx" / "decoder_fp8.onnx"
    assert first.calibration_hash == file_hash(folder_of(home) / "calibration.json")
    assert first.recipe == str(RECIPES["fp8"])
    assert RECIPES["fp8"].name in run(*given, "--dry-run")
    before = graph.read_bytes()
    louder = song.with_name("louder.wav")
    soundfile.write(louder, np.random.default_rng(6).normal(0, 0.3, (24_000, 2)), 48_000)
    calibrated(song, louder)
    assert "built by the calibration" in run(*given)
    assert read_metadata(note).calibration_hash != first.calibration_hash
    assert graph.read_bytes() != before


def test_what_each_precision_costs_is_printed(home, tiny_folder, song):
    said = invoke("precision", song, "--checkpoint", tiny_folder)
    rows = {line.split()[1]: line for line in said.splitlines() if line.startswith("│")}
    assert list(rows) == ["fp32", "bf16", "fp16", "mixed", "fp8", "int8"]
    assert said.count("│ fp8") == 2, "a quantization in bfloat16 and in float32; the engine's is not calibrated"
    assert all(0.1 < float(rows[name].split("│")[2].split()[0]) < 10 for name in ("fp8", "int8"))
    off = {name: float(rows[name].split("│")[3].split()[0]) for name in ("fp32", "fp16", "mixed")}
    assert off["fp32"] < off["fp16"] < off["mixed"] < 10
    assert "fp8 is left out" in said
    assert "demon engines calibrate" in said


def test_a_graph_of_the_codec_is_kept_while_it_is_whole_and_else_exported_again(tmp_path):
    folder = EngineFolder(tmp_path, "a", "5f" * 32)
    checkpoint = SimpleNamespace(codec=OobleckCodec(oobleck()))
    machine = Machine(LIBRARY.name, LIBRARY.version, "SM89")

    def built():
        builder.build(checkpoint, folder, window_decode_kind(), machine)
        (graph,) = folder.onnx.iterdir()
        return graph

    graph = built()
    first = graph.stat().st_mtime_ns
    assert built().stat().st_mtime_ns == first
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    assert built().read_bytes() == whole


def test_without_a_gpu_one_has_to_be_named(home, tiny_folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(app, ["engines", "build", "--checkpoint", str(tiny_folder), "--dry-run"])
    assert result.exit_code == 1
    assert "E_DEVICE" in result.stderr
    assert "with --for: SM75, " in result.stderr


def test_a_full_disk_is_told_before_anything_is_done(home, tiny_folder, monkeypatch):
    monkeypatch.setattr(build_plan.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    result = CliRunner().invoke(app, ["engines", "build", "--checkpoint", str(tiny_folder), "--for", "SM89"])
    assert result.exit_code == 1
    assert "E_DISK" in result.stderr
    assert not home.exists()


def test_a_decoder_that_hears_loras_is_another_engine(home, tiny_folder):
    said = run("--checkpoint", tiny_folder, "--decoder-only", "--refit", "--for", "SM89", "--dry-run")
    assert "decoder_mixed_refit_b8_60s" in said
