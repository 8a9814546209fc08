# SPDX-License-Identifier: Apache-2.0
"""`make demo` with the embedded checkpoint: what it leaves, and that its bits are those of a render."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import msgspec
import numpy as np
import pytest
import torch

from demo.bounce import CONFIG, draw_lanes
from engine_server.files import read_audio
from engine_server.model.checkpoint import load_checkpoint
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.receipt import Receipt, hash_floats
from engine_server.tracks.render import render
from hosts.bounce import ROOT
from shared_protocol.timebase import frames_to_cover
from training.evaluation.descriptors import describe

RATE = 48_000
LEAST_APART_DB = 1.0
FASTER, WIDER_DB = 1.4, 3.0
"""More than two seeds of one prompt differ by: 1.3 times and 2.6 dB at most. Spectra tell prompts apart with one seed only: from
seed to seed they differ by 5 dB, as those of different instruments do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fixtures):
    """Two runs of the demo, with the song that is shorter."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "demo.bounce", "--out", str(out), "--source", str(fixtures / "van_theme_12s.flac")]
    runs = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False) for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:]
    assert "the same bits as the last run" in runs[1].stdout
    return out


def test_it_leaves_source_bounce_picture_receipt_and_prompts(folder):
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["bounce.wav", "picture.png", "prompts", "receipt.json", "source.wav"]
    receipt = msgspec.json.decode((folder / "receipt.json").read_bytes(), type=Receipt)
    bounce, _ = read_audio(folder / "bounce.wav")
    assert receipt.result_sha256 == hash_floats(bounce)
    assert receipt.lanes["denoise"] == "0 to 0.9"


def test_each_prompt_makes_another_sound_of_the_same_piano(folder):
    sounds = {path.stem: read_audio(path)[0] for path in (folder / "prompts").glob("*.wav")}
    assert sorted(sounds) == ["choir", "distorted_guitar", "music_box", "source", "string_orchestra"]
    levels = {name: third_octave_levels_db(audio) for name, audio in sounds.items()}
    for one, other in combinations(levels, 2):  # with one seed: prompts that nobody heard would be equal bit for bit
        assert np.sqrt(np.mean((levels[one] - levels[other]) ** 2)) > LEAST_APART_DB, (one, other)
    heard = {name: describe(torch.from_numpy(audio)) for name, audio in sounds.items()}
    decays = {name: each["decay dB/s"] for name, each in heard.items()}
    fastest_other = max(decays[name] for name in ("choir", "distorted_guitar", "string_orchestra"))
    assert decays["music_box"] > FASTER * fastest_other, decays
    assert heard["choir"]["side dB"] > heard["distorted_guitar"]["side dB"] + WIDER_DB, heard
    assert (folder / "prompts" / "prompts.png").stat().st_size > 10_000


def third_octave_levels_db(audio):
    """Levels of `[2, N]` in third octaves from 62.5 Hz to 8 kHz, within 50 dB of the highest, around their mean."""
    power = np.abs(np.fft.rfft(audio.mean(axis=0))) ** 2
    edges_hz = 62.5 * 2 ** (np.arange(22) / 3)
    edges = np.searchsorted(np.fft.rfftfreq(audio.shape[1], 1 / RATE), edges_hz)
    levels = 10 * np.log10(np.add.reduceat(power, edges)[:-1] + 1e-12)
    levels = np.maximum(levels, levels.max() - 50)
    return levels - levels.mean()


def test_its_bits_are_those_of_a_render_and_its_music_is_not_silence(folder):
    source, rate = read_audio(folder / "source.wav")
    bounce, _ = read_audio(folder / "bounce.wav")
    frames = frames_to_cover(source.shape[1], rate)
    curves = build_table(draw_lanes(frames), frames)
    assert np.array_equal(bounce, render(Engine(load_checkpoint("embedded")), source, rate, curves, CONFIG))
    loudness = [20 * np.log10(np.sqrt(np.mean(audio**2))) for audio in (source, bounce)]
    assert abs(loudness[0] - loudness[1]) < 6.0
