# SPDX-License-Identifier: Apache-2.0
"""Calibration: what a session's activations come to, and files of it that are not what they should be."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from trt_rig import decoder, eager, inputs

from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.checkpoint_files import ASSETS, EMBEDDED, content_hash
from engine_server.model.layouts import read_layout
from engine_server.model.recipe_linears import quantized_linears
from engine_server.model.recipes import RECIPES
from engine_server.session import Session
from shared_protocol.errors import DemonError
from trt_engines.calibrate import calibrate, recorded
from trt_engines.calibration import SHIPPED, Calibration, read_calibration, write_calibration

HASH = "5f" * 32
LINEARS = ["layers.0.mlp.up_proj", "layers.0.mlp.down_proj"]
GOOD = Calibration(
    schema=1,
    checkpoint="ACE-Step/turbo",
    checkpoint_hash=HASH,
    music={"song.flac": HASH},
    prompts=("strings",),
    denoise=(1.0,),
    steps=8,
    largest_inputs={name: 1.5 for name in LINEARS},
)


def read(path, linears=LINEARS):
    return read_calibration(path, checkpoint="ACE-Step/turbo", checkpoint_hash=HASH, linears=linears)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    write_calibration(tmp_path / "new" / "calibration.json", GOOD)
    assert read(tmp_path / "new" / "calibration.json") == GOOD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: None, "is not there"),
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: text.replace(b"1.5", b"NaN"), "cannot be read"),
        (lambda text: text.replace(b"1.5", b"1e999"), "cannot be read"),
        (lambda text: text.replace(b"1.5", b"-1.5"), "cannot be read"),
        (lambda text: text.replace(b'"schema": 1', b'"schema": 2'), "schema 2"),
        (
            lambda text: text.replace(b'checkpoint_hash": "5f', b'checkpoint_hash": "60'),
            "checkpoint 605f5f5f5f5f, not of 5f5f",
        ),
        (lambda text: text.replace(b"down_proj", b"odd_proj"), "lacks 1 Linears, layers.0.mlp.down_proj among them"),
    ],
    ids=["none", "half", "NaN", "infinite", "negative", "schema", "another checkpoint", "a layer less"],
)
def test_a_calibration_that_does_not_fit_says_what_to_run(tmp_path, change, words):
    path = tmp_path / "calibration.json"
    write_calibration(path, GOOD)
    changed = change(path.read_bytes())
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    with pytest.raises(DemonError, match=words) as raised:
        read(path)
    assert raised.value.code == "E_CALIBRATION"
    assert "run: demon engines calibrate --checkpoint ACE-Step/turbo MUSIC.flac" in raised.value.message


def test_a_calibration_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DemonError, match="E_OUTPUT"):
        write_calibration(tmp_path / "file" / "calibration.json", GOOD)


def test_the_largest_inputs_are_recorded_and_nothing_is_left_in_the_model():
    model = decoder()
    cases = [inputs(model, 2, 20, 5, seed=seed) for seed in (1, 2, 3)]
    with recorded(model) as largest, torch.no_grad():
        for case in cases:
            eager(model)(**case)
    conditions = [model.condition_embedder(case["encoder_hidden_states"]) for case in cases]
    expected = max(float(condition.abs().max()) for condition in conditions)
    assert largest["layers.0.cross_attn.to_k"] == largest["layers.1.cross_attn.to_v"] == expected
    assert set(largest) == set(quantized_linears(model, RECIPES["fp8"]))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_input_that_is_not_finite_is_named():
    model = decoder()
    model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    with (
        pytest.raises(DemonError, match=r"E_CALIBRATION: an input of layers\.1\.mlp\.down_proj is not finite"),
        recorded(model),
        torch.no_grad(),
    ):
        eager(model)(**inputs(model, 2, 20, 5))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_sessions_music_calibrates_every_linear_and_the_same_music_gives_the_same(tiny_folder, tmp_path):
    song = tmp_path / "song.wav"
    soundfile.write(song, np.random.default_rng(4).normal(0, 0.1, (24_000, 2)), 48_000)
    with Session(str(tiny_folder), dtype="float32", device="cpu") as session:
        first, second = (calibrate(session, "tiny", [song]) for _ in range(2))
        assert set(first.largest_inputs) == set(quantized_linears(session.checkpoint.transformer, RECIPES["fp8"]))
        assert first.checkpoint_hash == session.checkpoint.content_hash
    assert first == second
    assert set(first.music) == {"song.wav"}
    assert all(value > 0 for value in first.largest_inputs.values())


def test_the_embedded_checkpoints_calibration_is_its_own():
    """After another training: the command of docs/developer.md."""
    linears = quantized_linears(load_checkpoint(EMBEDDED, device="cpu").transformer, RECIPES["fp8"])
    here = content_hash(read_layout(ASSETS / EMBEDDED).files)
    read_calibration(SHIPPED, checkpoint=EMBEDDED, checkpoint_hash=here, linears=linears)
    assert msgspec.json.decode(SHIPPED.read_bytes(), type=Calibration).checkpoint == EMBEDDED
