# SPDX-License-Identifier: Apache-2.0
"""`make demo` with the embedded checkpoint: what it leaves, and that its bits are those of a render."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from demo.bounce import CONFIG, draw_lanes
from engine_server.files import read_audio
from engine_server.model.checkpoint import load_checkpoint
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.receipt import Receipt, hash_floats
from engine_server.tracks.render import render
from hosts.bounce import ROOT
from shared_protocol.timebase import frames_to_cover


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


def test_it_leaves_source_bounce_picture_and_receipt(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["bounce.wav", "picture.png", "receipt.json", "source.wav"]
    receipt = msgspec.json.decode((folder / "receipt.json").read_bytes(), type=Receipt)
    bounce, _ = read_audio(folder / "bounce.wav")
    assert receipt.result_sha256 == hash_floats(bounce)
    assert receipt.lanes["denoise"] == "0 to 0.9"


def test_its_bits_are_those_of_a_render_and_its_music_is_not_silence(folder):
    source, rate = read_audio(folder / "source.wav")
    bounce, _ = read_audio(folder / "bounce.wav")
    frames = frames_to_cover(source.shape[1], rate)
    curves = build_table(draw_lanes(frames), frames)
    assert np.array_equal(bounce, render(Engine(load_checkpoint("embedded")), source, rate, curves, CONFIG))
    loudness = [20 * np.log10(np.sqrt(np.mean(audio**2))) for audio in (source, bounce)]
    assert abs(loudness[0] - loudness[1]) < 6.0
