# SPDX-License-Identifier: Apache-2.0
"""Loop in hosts: capture, bounce, recall, and playing the newest take in real time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from host_values import PROMPT, PROMPT_ENVIRONMENT, SEED
from test_playing import play

from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render_clip import render_clip
from hosts.bounce import BUNDLE, ROOT
from hosts.parameters import parameter_name, proportion
from shared_protocol.messages import make_config
from shared_protocol.timebase import frames_to_cover

RATE = 48_000
LOOP = {"DEMON_MODE": "loop", "DEMON_CAPTURE": "1"}


@pytest.fixture(scope="module")
def committed(tiny):
    """The bounce of a clip, computed without plugin and socket."""
    engine = Engine(tiny)

    def compute(source, rate=RATE, **lanes):
        curves = build_table(lanes, frames_to_cover(source.shape[1], rate))
        return render_clip(engine, source, rate, curves, make_config(PROMPT, SEED))

    return compute


def clip_session(tmp_path, source, *, endpoint, rate=RATE, blocks, **lanes):
    """Run clip_session.py; its results by name."""
    np.save(tmp_path / "in.npy", source)
    job = {
        "bundle": str(BUNDLE), "source": str(tmp_path / "in.npy"), "folder": str(tmp_path), "rate": rate,
        "blocks": blocks, "lanes": {parameter_name(lane): proportion(lane, value) for lane, value in lanes.items()},
    }  # fmt: skip
    environment = {"DEMON_ENDPOINT": endpoint, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "tests/hosts/clip_session.py", json.dumps(job)],
        cwd=ROOT, env=environment | PROMPT_ENVIRONMENT | LOOP, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (tmp_path / "reopened.npy").exists(), done.stderr[-2000:]
    return {file.stem: np.load(file) for file in tmp_path.glob("*.npy")}


def test_a_captured_clip_is_bounced_to_the_bits_of_a_commit_and_again_from_the_saved_project(
    server, committed, music, tmp_path
):
    results = clip_session(tmp_path, music, endpoint=server.endpoint, blocks=[512, 480, 4096], denoise=0.5)
    expected = committed(music, denoise=0.5)
    assert np.array_equal(results["capture"], music), "the dry signal passes while it is captured"
    assert not np.array_equal(expected, music)
    for name in ("bounce0", "bounce1", "bounce2", "reopened"):
        assert np.array_equal(results[name], expected), name


def test_every_bounce_leaves_its_receipt(server, music, tmp_path):
    results = clip_session(tmp_path, music, endpoint=server.endpoint, blocks=[512])
    receipts = list((tmp_path / ".local/share/demon-bridge/renders").glob("*.receipt.json"))  # under the host's $HOME
    assert len(receipts) == 1, "three bounces of the same bits are one render"
    receipt = json.loads(receipts[0].read_text())
    assert receipt["result_sha256"] == hashlib.sha256(results["bounce0"].tobytes()).hexdigest()
    assert receipt["source_sha256"] == hashlib.sha256(music.tobytes()).hexdigest()
    assert receipt["checkpoint_sha256"]
    assert receipt["complete"]
    assert receipt["offline"]


@pytest.mark.parametrize("rate", [32_000, 96_000])  # not the one at which pedalboard plays noise while it loads
def test_at_other_rates_a_clip_is_recalled_to_the_bit(server, tmp_path, rate):
    """The clip is kept at the rate of its capture, whatever rates a host tries while it opens the project."""
    rng = np.random.default_rng(3)
    source = (0.1 * rng.standard_normal((2, 3 * rate))).astype(np.float32)
    results = clip_session(tmp_path, source, endpoint=server.endpoint, rate=rate, blocks=[512])
    assert np.array_equal(results["capture"], source)
    assert not np.array_equal(results["bounce0"], source)
    assert np.array_equal(results["reopened"], results["bounce0"])


def test_in_real_time_the_loop_comes_to_rest_on_the_bits_of_its_bounce(server, committed, music, tmp_path):
    """Captured in the first pass; from some pass on every frame is the newest take of untouched lanes: the commit's bits."""
    length, block = 144_000, 480
    clip = np.ascontiguousarray(music[:, :length])
    out, _ = play(
        clip, tmp_path, endpoint=server.endpoint, block=block, paced=True, seconds=15.0, script=f"loop 0 {length}",
        more=LOOP,
    )  # fmt: skip
    passes = [out[:, start : start + length] for start in range(0, out.shape[1] - length + 1, length)]
    assert np.array_equal(passes[0], clip), "the dry signal passes while it is captured, without latency"
    assert not np.array_equal(passes[2], clip)
    assert np.array_equal(passes[-1], committed(clip, denoise=0.6))
