# SPDX-License-Identifier: Apache-2.0
"""Bounces while the engine is away, dies, or comes back."""

from __future__ import annotations

import time

import numpy as np
import pytest
from host_values import PROMPT_ENVIRONMENT
from probe import wait_for_probe
from wire import ServerProcess

from hosts.bounce import start_bounce

NOBODY = "tcp://127.0.0.1:9"
LATENCY = 150 * 1920
RATE = 48_000
STEPS = 30
"""Slow enough for a server to die in the middle."""
DIES_AT_S = 3.0
"""Place in the music: what is before it has been bounced through the engine."""


@pytest.fixture(scope="module")
def long_music(music):
    return np.ascontiguousarray(np.tile(music, (1, 5)))


@pytest.fixture
def own_server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


def start_until_the_middle(host, source, endpoint, folder, timeout_s=120):
    """A bounce that has played some seconds of the engine's windows, and goes on."""
    probe = folder / "probe.jsonl"
    job = start_bounce(
        host, source, endpoint=endpoint, block=512, lanes={"denoise": 0.6}, state={"steps": str(STEPS)},
        environment=PROMPT_ENVIRONMENT | {"DEMON_TIMEOUT_S": str(timeout_s), "DEMON_PROBE_LOG": str(probe)},
    )  # fmt: skip
    wait_for_probe(probe, lambda line: line["wet"] and line["position"] >= LATENCY + DIES_AT_S * RATE)
    assert job.process.poll() is None, "the bounce was over before the server could die: make it slower"
    return job


@pytest.mark.parametrize("host", ["pedalboard", "dawdreamer"])
def test_without_an_engine_the_bounce_is_the_dry_signal_after_one_time_out(music, host):
    job = start_bounce(host, music, endpoint=NOBODY, lanes={"denoise": 0.6}, environment={"DEMON_TIMEOUT_S": "2"})
    audio, report = job.finish(60)
    assert np.array_equal(audio, music)
    assert 2 < report.bounce_s < 20  # a time-out for each of its frames would be minutes


@pytest.mark.parametrize("host", ["pedalboard", "dawdreamer"])
def test_a_server_killed_and_started_again_in_mid_bounce_changes_no_bit(
    own_server, reference, long_music, host, tmp_path
):
    job = start_until_the_middle(host, long_music, own_server.endpoint, tmp_path)
    own_server.kill()
    time.sleep(1.0)
    own_server.start()
    audio, _ = job.finish()
    assert np.array_equal(audio, reference(long_music, steps=STEPS, denoise=0.6))


def test_a_server_killed_for_good_leaves_a_dry_bounce_after_the_time_out(own_server, reference, long_music, tmp_path):
    job = start_until_the_middle("dawdreamer", long_music, own_server.endpoint, tmp_path, timeout_s=3)
    own_server.kill()
    audio, _ = job.finish(60)
    wet = reference(long_music, steps=STEPS, denoise=0.6)
    is_wet, is_dry = ((audio == other).all(axis=0) for other in (wet, long_music))
    first_dry = int(np.flatnonzero(~is_wet)[0])
    assert is_wet[:first_dry].all()
    assert 0 < first_dry < audio.shape[1]
    assert is_dry[first_dry + 512 :].all()
