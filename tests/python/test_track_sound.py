# SPDX-License-Identifier: Apache-2.0
"""What a configuration makes of the model: two prompts, references, LoRAs, tempo. Neutral values change no bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from track_rig import FRAME, RATE, audio_of, finish, music, pieces, stream, write_lora

from engine_server.model.windows import Span
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.references import reference_hash
from engine_server.tracks.render import render
from shared_protocol.errors import DemonError
from shared_protocol.messages import make_config

FRAMES = 45
CLIP = music(40, seed=2)
CLIP_HASH = reference_hash(CLIP, RATE)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("loras")
    write_lora(path / "choir.safetensors", tiny)
    return path


@pytest.fixture(scope="module")
def engine(tiny, folder):
    return Engine(tiny, loras=[folder])


def bounce(engine, config, references=(), **lanes):
    table = build_table({"denoise": 0.8} | lanes, FRAMES)
    return render(engine, music(FRAMES), RATE, table, config, references=references)


@pytest.fixture(scope="module")
def plain(engine):
    return bounce(engine, make_config("strings", 7))


def test_prompt_blend_goes_from_exactly_a_to_exactly_b(engine, plain):
    both = make_config("strings", 7, prompt_b="a loud brass band")
    assert np.array_equal(bounce(engine, both), plain)
    b_alone = bounce(engine, make_config("a loud brass band", 7))
    assert np.array_equal(bounce(engine, both, prompt_blend=1.0), b_alone)
    half = bounce(engine, both, prompt_blend=0.5)
    assert not np.array_equal(half, plain)
    assert not np.array_equal(half, b_alone)


def test_a_long_prompt_b_does_not_change_hops_that_are_all_a(engine, plain):
    """Conditions are padded to another length with it, in another ring."""
    both = make_config("strings", 7, prompt_b="brass " * 100)
    assert np.array_equal(bounce(engine, both), plain)
    step = np.where(np.arange(FRAMES) < 20, 0.0, 1.0).astype(np.float32)
    assert bounce(engine, both, prompt_blend=step).shape == plain.shape


def test_timbre_acts_by_its_lane(engine, plain):
    told = make_config("strings", 7, timbre=CLIP_HASH)
    references = [(CLIP, RATE)]
    assert np.array_equal(bounce(engine, told, references, timbre=0.0), plain)
    full, half = bounce(engine, told, references), bounce(engine, told, references, timbre=0.5)
    assert not np.array_equal(full, plain)
    assert not np.array_equal(full, half)


def test_structure_comes_from_the_reference_and_fades(engine, plain):
    told, references = make_config("strings", 7, structure=CLIP_HASH), [(CLIP, RATE)]
    assert not np.array_equal(bounce(engine, told, references), plain)
    faded = bounce(engine, told, references, structure=0.0)
    assert np.array_equal(faded, bounce(engine, make_config("strings", 7), structure=0.0))


def test_a_structure_reference_repeats_from_timeline_zero(engine, tiny):
    track = stream(tiny, config=make_config("x", 1, structure=CLIP_HASH), loras=engine.loras)
    for header, part in pieces(CLIP, RATE):
        track.sound.references.add(header, part)
    while track.sound.references.is_encoding():
        track.sound.references.encode_some()
    context = track.sound.context(pytest.fail, 1.0, Span(-50, 50))[:, : tiny.codec.latent_channels]
    reference = track.sound.references.structure()
    assert torch.equal(context[50:90], reference)
    assert torch.equal(context[10:50], reference)
    assert torch.equal(context[:10], reference[30:])


def test_loras_act_by_their_lanes_and_on_nobody_else(engine, plain, tiny):
    choir = engine.loras.find("choir")
    config = make_config("strings", 7, loras=["", choir])
    assert np.array_equal(bounce(engine, config), plain)
    assert np.array_equal(bounce(engine, config, lora_1=1.0), plain)
    loud = bounce(engine, config, lora_2=1.0)
    assert not np.array_equal(loud, plain)
    assert np.array_equal(bounce(engine, make_config("strings", 7)), plain)
    assert np.array_equal(bounce(engine, make_config("strings", 7, loras=[choir]), lora_1=1.0), loud)

    neighbours = [
        stream(tiny, "with", config=config, lanes=("denoise", "lora_2"), loras=engine.loras),
        stream(tiny, "without", loras=engine.loras),
    ]
    silence = np.zeros((2, 60 * FRAME), dtype=np.float32)
    source = np.concatenate([music(FRAMES), silence], axis=1)
    for track in neighbours:
        engine.tracks[track.id] = track
        track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
        lanes = np.tile(np.float32([0.8, 1.0][: len(track.lanes)]), (FRAMES + 60, 1))
        track.feed(1, 0, source, lanes)
        track.finish(1, FRAMES + 60)
    windows = finish(engine)
    for name, expected in (("with", loud), ("without", plain)):
        assert np.array_equal(audio_of(windows, name)[:, : FRAMES * FRAME], expected)
        engine.remove(name)


def test_tempo_and_meter_are_told_when_the_model_knows_them(engine, plain):
    assert not np.array_equal(bounce(engine, make_config("strings", 7, bpm=90, meter=3)), plain)
    assert np.array_equal(bounce(engine, make_config("strings", 7, bpm=25, meter=5)), plain)
    assert np.array_equal(bounce(engine, make_config("strings", 7, bpm=400, meter=16)), plain)


def test_hops_wait_for_what_is_missing(tiny, folder):
    engine = Engine(tiny, loras=[folder])
    track = stream(tiny, config=make_config("x", 1, timbre=CLIP_HASH, structure="00" * 32), loras=engine.loras)
    engine.tracks[track.id] = track
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    lanes = np.full((FRAMES, 1), 0.8, dtype=np.float32)
    track.feed(1, 0, music(FRAMES), lanes)
    track.finish(1, FRAMES)
    assert sorted(error.code for error in track.sound.missing()) == ["E_REFERENCE", "E_REFERENCE"]
    assert not engine.has_work()
    missing = track.sound.configure(make_config("x", 1, timbre=CLIP_HASH, loras=["ab" * 32]))
    assert [error.code for error in missing] == ["E_LORA", "E_REFERENCE"]
    for header, part in pieces(CLIP, RATE):
        track.sound.references.add(header, part)
    assert engine.has_work()  # to encode it
    assert not finish(engine)
    assert not track.sound.configure(make_config("x", 1, timbre=CLIP_HASH))
    assert finish(engine)


def test_a_render_says_what_is_missing(engine):
    with pytest.raises(DemonError, match="E_REFERENCE"):
        bounce(engine, make_config("x", timbre="00" * 32))
    with pytest.raises(DemonError, match="E_LORA"):
        bounce(engine, make_config("x", loras=["00" * 32]))
