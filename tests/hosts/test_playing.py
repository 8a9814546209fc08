# SPDX-License-Identifier: Apache-2.0
"""Playing in real time, in a host with a transport that can be moved: minihost."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from host_values import PROMPT_ENVIRONMENT
from probe import read_probe

from hosts.bounce import BUNDLE, ROOT

LATENCY = 150 * 1920
RATE = 48_000
UNASKED_WAITS = 20
"""In thousands of blocks: a page of the program that was not in memory yet, and the like."""


def play(music, tmp_path, *, endpoint, block, paced, seconds, script="", offline=False, more=()):
    """Run tests/hosts/play_session.py; its result `[2, N]`, not latency-compensated, and its report.

    `more` is added to the host's environment. The blocks' lines are in probe.jsonl.
    """
    np.save(tmp_path / "in.npy", music)
    arguments = {
        "bundle": str(BUNDLE), "source": str(tmp_path / "in.npy"), "result": str(tmp_path / "out.npy"), "block": block,
        "paced": paced, "seconds": seconds, "script": script, "offline": offline,
    }  # fmt: skip
    environment = {"DEMON_ENDPOINT": endpoint, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | PROMPT_ENVIRONMENT
    environment |= dict(more)
    environment["DEMON_PROBE_LOG"] = str(tmp_path / "probe.jsonl")
    done = subprocess.run(
        [sys.executable, "tests/hosts/play_session.py", json.dumps(arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (tmp_path / "out.npy").exists(), done.stderr[-2000:]
    return np.load(tmp_path / "out.npy"), json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("block", [480, 512])
def test_played_in_real_time_it_sounds_as_bounced(server, reference, music, tmp_path, block):
    """The very bits, wherever the engine was in time: a busy machine may be late now and then, and says where."""
    out, _ = play(music, tmp_path, endpoint=server.endpoint, block=block, paced=True, seconds=12.0)
    blocks = [line for line in read_probe(tmp_path / "probe.jsonl") if line["playing"]]
    assert len(blocks) * block == out.shape[1]
    late = np.array([line["late"] > 0 for line in blocks])
    late |= np.roll(late, 1)  # the crossfade back lies in the block after
    in_time = np.repeat(~late, block)
    expected = np.zeros_like(out)
    heard = reference(music, denoise=0.6)[:, : out.shape[1] - LATENCY]
    expected[:, LATENCY : LATENCY + heard.shape[1]] = heard
    in_time[LATENCY + heard.shape[1] :] = False  # after the music
    assert in_time[LATENCY:].sum() > RATE
    assert np.array_equal(out[:, in_time], expected[:, in_time])


def test_without_an_engine_blocks_never_wait_and_the_dry_signal_passes(music, tmp_path):
    out, report = play(music, tmp_path, endpoint="tcp://127.0.0.1:9", block=256, paced=False, seconds=12.0)
    assert np.array_equal(out[:, LATENCY:], music[:, : out.shape[1] - LATENCY])
    assert report["waits"] <= UNASKED_WAITS


def test_when_late_the_dry_signal_takes_over_and_is_counted(server, music, tmp_path):
    """Blocks as fast as they go: the engine cannot keep up, and nothing waits for it."""
    out, report = play(music, tmp_path, endpoint=server.endpoint, block=256, paced=False, seconds=12.0)
    assert report["waits"] <= UNASKED_WAITS
    assert any(line["late"] for line in read_probe(tmp_path / "probe.jsonl"))
    assert np.isfinite(out).all()
    steps = np.abs(np.diff(out[:, LATENCY:]))
    assert steps.max() < 2 * np.abs(np.diff(music)).max() + 0.05


def test_a_locate_starts_an_epoch_and_loses_no_sample_of_the_old_one(server, reference, music, tmp_path):
    """At 4 s the transport jumps to 1 s: what was played before still sounds for the latency, then the new place."""
    jump = 4 * RATE
    out, _ = play(
        music, tmp_path, endpoint=server.endpoint, block=480, paced=True, seconds=16.0, script=f"locate {jump} {RATE}"
    )
    heard = reference(music, denoise=0.6)
    played = out[:, LATENCY:]
    safe = jump - 60 * 1920
    assert np.array_equal(played[:, :safe], heard[:, :safe])
    again = played[:, jump:]
    assert np.abs(again).max() > 0
    assert not np.array_equal(again[:, :RATE], music[:, RATE : 2 * RATE])


def test_tempo_and_meter_change_no_bit(server, reference, music, tmp_path):
    """Nothing in Stream is measured in beats."""
    out, _ = play(
        music, tmp_path, endpoint=server.endpoint, block=480, paced=False, offline=True, seconds=12.0, script="rhythm"
    )
    played, heard = out[:, LATENCY:], reference(music, denoise=0.6)
    assert np.array_equal(played[:, : music.shape[1]], heard[:, : played.shape[1]])


def test_every_pass_of_a_loop_sounds_the_same(server, music, tmp_path):
    """Each is a start at the same place with the same input."""
    first, stop = RATE, RATE + 100 * 1920
    out, _ = play(
        music, tmp_path, endpoint=server.endpoint, block=480, paced=False, offline=True, seconds=26.0,
        script=f"loop {first} {stop}",
    )  # fmt: skip
    length = stop - first
    passes = [out[:, at : at + length] for at in range(LATENCY + stop, out.shape[1] - length, length)]
    assert len(passes) >= 3
    assert np.abs(passes[0]).max() > 0
    assert not np.array_equal(passes[0], music[:, first:stop])
    glide = 1024  # from what the last pass ended with
    for other in passes[1:]:
        assert np.array_equal(other[:, glide:], passes[0][:, glide:])


def test_stopped_the_delayed_dry_signal_passes(server, music, tmp_path):
    out, _ = play(music, tmp_path, endpoint=server.endpoint, block=480, paced=False, seconds=12.0, script="stopped")
    assert np.array_equal(out[:, LATENCY:], music[:, : out.shape[1] - LATENCY])


def test_loading_and_unloading_many_times_is_clean(server):
    code = (
        "import minihost, sys\n"
        "for _ in range(10):\n"
        "    plugin = minihost.Plugin(sys.argv[1], sample_rate=48000.0, max_block_size=512)\n"
        "    plugin.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(BUNDLE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
