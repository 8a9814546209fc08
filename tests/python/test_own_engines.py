# SPDX-License-Identifier: Apache-2.0
"""`--backend tensorrt`: the engines that were built of a checkpoint are found without being named, or it is said what to run."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch
from device_rig import simulated_gpu
from own_engine_rig import MACHINE, OwnEngines, SimulatedTensorRt
from test_cli import demon, tone
from track_rig import RATE, music, stream, write_lora

from engine_server.model.checkpoint import load_checkpoint
from engine_server.session import Session
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.lora_catalogue import offers_loras
from engine_server.tracks.render import render
from shared_protocol.errors import DemonError
from shared_protocol.messages import make_config

FRAMES = 60
OTHER_GPU = msgspec.structs.replace(MACHINE, compute_capability="SM120")


@pytest.fixture
def own(tiny_folder, tmp_path, monkeypatch):
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return OwnEngines(tiny_folder)


@pytest.fixture
def tensorrt(monkeypatch, tiny_folder):
    with simulated_gpu(monkeypatch):
        yield SimulatedTensorRt(monkeypatch, tiny_folder)


def load(folder, **options):
    return load_checkpoint(str(folder), **({"device": "cuda", "backend": "tensorrt"} | options))


def refused(folder, **options):
    with pytest.raises(DemonError) as caught:
        load(folder, **options)
    return caught.value


def build(folder, seconds=60):
    return f"demon engines build --checkpoint {folder} --decoder-only --duration {seconds} --precision mixed"


def test_without_engines_it_is_said_what_builds_one(own, tensorrt, tiny_folder):
    error = refused(tiny_folder)
    assert error.code == "E_ENGINE_NOT_BUILT"
    assert error.message == f"there is no decoder_mixed_b8_60s yet; run: {build(tiny_folder)}"


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"machine": OTHER_GPU}, "built for compute capability SM120, here SM89"),
        ({"machine": msgspec.structs.replace(MACHINE, library_version="1.0")}, "built by version 1.0, here 1.7.1"),
        ({"checkpoint_hash": "6a" * 32}, "built of the checkpoint 6a6a6a6a6a6a"),
    ],
)
def test_one_of_something_else_is_refused_with_what_builds_the_right_one(own, tensorrt, tiny_folder, engine, said):
    own.publish(**engine)
    error = refused(tiny_folder)
    assert error.code == "E_ENGINE_STALE"
    assert said in error.message
    assert error.message.endswith(f"Run: {build(tiny_folder)}")
    assert tensorrt.loaded == []


@pytest.mark.parametrize("content", [b"an engi", b"an eNgine", b""], ids=["cut", "changed", "empty"])
def test_one_that_is_not_what_was_built_is_refused(own, tensorrt, tiny_folder, content):
    own.publish()
    own.file().write_bytes(content)
    error = refused(tiny_folder)
    assert error.code == "E_ENGINE_FILE"
    assert "is not what was built" in error.message
    assert f"run: {build(tiny_folder)} --force-rebuild".lower() in error.message.lower()
    assert tensorrt.loaded == []


def test_one_whose_note_is_damaged_is_refused_with_what_builds_it(own, tensorrt, tiny_folder):
    own.publish()
    own.folder.note(own.kind()).write_text("{")
    error = refused(tiny_folder)
    assert error.code == "E_ENGINE_FILE"
    assert error.message.endswith(f"Run: {build(tiny_folder)} --force-rebuild")


def test_on_a_cpu_it_is_said_what_to_take(own, tiny_folder):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install --editable '.[trt]'")
    error = refused(tiny_folder, device="cpu")
    assert error.code == "E_DEVICE"
    assert "take device cuda, or the eager backend" in error.message


def test_a_bounce_over_the_engine_is_near_eagers_and_says_what_computed_it(own, tensorrt, tiny_folder):
    own.publish()
    table, config = build_table({"denoise": 0.7, "guidance": 1.5}, FRAMES), make_config("strings", 7)

    def bounce(backend):
        engine = Engine(load(tiny_folder, backend=backend, dtype="float32"))
        return render(engine, music(FRAMES), RATE, table, config), engine.backend

    (expected, _), (heard, named) = bounce("eager"), bounce("tensorrt")
    assert named.startswith("tensorrt cuda mixed, NVIDIA RTX")
    assert tensorrt.loaded == ["decoder_mixed_b8_60s"]
    assert np.abs(heard - expected).max() < 1e-3 * np.abs(expected).max()
    again, _ = bounce("tensorrt")
    assert np.array_equal(again, heard)


def test_a_window_runs_on_the_shortest_engine_that_takes_it(own, tensorrt, tiny_folder, caplog):
    own.publish(60)
    own.publish(240)
    checkpoint = load(tiny_folder)
    assert tensorrt.loaded == ["decoder_mixed_b8_60s"]

    def run(frames):
        x, t = torch.zeros(1, frames, 64, device="cuda"), torch.zeros(1, device="cuda")
        states = torch.zeros(1, 16, checkpoint.condition_width, device="cuda")
        condition = checkpoint.decoder.encode(states, torch.ones(1, 16, dtype=torch.bool, device="cuda"))
        return checkpoint.decoder(x, t, torch.zeros(1, frames, 128, device="cuda"), condition).shape

    assert run(1500) == (1, 1500, 64)
    assert tensorrt.loaded == ["decoder_mixed_b8_60s"]
    assert run(1502) == (1, 1502, 64)
    assert tensorrt.loaded[1:] == ["decoder_mixed_b8_240s"]
    assert "while playing waits" in caplog.text
    run(1502)
    run(80)
    assert len(tensorrt.loaded) == 2
    with pytest.raises(DemonError, match=r"engines end at 240 s") as caught:
        run(6002)
    assert caught.value.code == "E_FIELD"


def test_an_engine_that_would_be_too_short_as_well_is_not_loaded_to_say_so(own, tensorrt, tiny_folder):
    own.publish(60)
    own.publish(120)
    checkpoint = load(tiny_folder)
    with pytest.raises(DemonError, match=r"--duration 240 --precision mixed"):
        checkpoint.decoder(torch.zeros(1, 3002, 64), torch.zeros(1), torch.zeros(1, 3002, 128), ())
    assert tensorrt.loaded == ["decoder_mixed_b8_60s"]


def test_a_longer_engine_takes_the_place_of_one_that_is_stale_and_the_log_says_so(own, tensorrt, tiny_folder, caplog):
    own.publish(60, machine=OTHER_GPU)
    own.publish(120)
    load(tiny_folder)
    assert tensorrt.loaded == ["decoder_mixed_b8_120s"]
    assert "an engine is left out: E_ENGINE_STALE: decoder_mixed_b8_60s" in caplog.text
    assert build(tiny_folder) in caplog.text


def test_a_longer_clip_than_the_engines_are_for_says_what_to_build(own, tensorrt, tiny_folder):
    own.publish(60)
    decoder = load(tiny_folder).decoder
    parts = [torch.zeros(1, 1502, 64), torch.zeros(1), torch.zeros(1, 1502, 128)]
    with pytest.raises(DemonError) as caught:
        decoder(*parts, (torch.zeros(1, 16, 32), torch.ones(1, 16, dtype=torch.bool)))
    assert caught.value.code == "E_ENGINE_NOT_BUILT"
    assert caught.value.message.endswith(f"run: {build(tiny_folder, 120)}")


def test_a_track_with_a_lora_waits_and_is_told_what_hears_it(own, tensorrt, tiny, tiny_folder, tmp_path):
    own.publish()
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "choir.safetensors", tiny)
    engine = Engine(load(tiny_folder), loras=[tmp_path / "loras"])
    config = make_config("strings", 7, loras=[engine.loras.find("choir")])
    deaf = stream(engine.checkpoint, "deaf", config=config, lanes=("lora_1",), loras=engine.loras)
    (refusal,) = deaf.sound.missing()
    assert refusal.code == "E_LORA"
    assert "use the eager or the compile backend" in refusal.message
    assert not deaf.sound.is_ready()
    assert offers_loras(str(tiny_folder), [tmp_path / "loras"])
    assert not offers_loras(str(tiny_folder), [tmp_path / "none"])
    assert offers_loras("embedded", [])


def test_a_session_finds_them_too(own, tensorrt, tiny_folder):
    own.publish()
    with Session(str(tiny_folder), decoder_backend="tensorrt", device="cuda") as session:
        assert session.backend.reason == "tensorrt: asked for by name"
        made = session.generate(conditioning=session.encode_text(tags="strings"), duration=4.0, seed=1, steps=1)
    assert bool(made.frames.isfinite().all())
    assert tensorrt.loaded == ["decoder_mixed_b8_60s"]


def test_the_command_renders_by_it(own, tensorrt, tiny_folder, tmp_path):
    source, out = tone(tmp_path / "in.wav", seconds=0.5), tmp_path / "out.wav"
    command = ["render", source, "--out", out, "--model", tiny_folder, "--device", "cuda", "--backend", "tensorrt"]
    done = demon(*command)
    assert done.exit_code == 1
    assert f"E_ENGINE_NOT_BUILT: there is no decoder_mixed_b8_60s yet; run: {build(tiny_folder)}" in done.stderr
    own.publish()
    assert demon(*command).exit_code == 0
    assert json.loads(out.with_suffix(".receipt.json").read_text())["backend"].startswith("tensorrt cuda mixed, NVIDIA")
