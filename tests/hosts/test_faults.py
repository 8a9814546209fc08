# SPDX-License-Identifier: Apache-2.0
"""Bounces while the engine is away, dies, or comes back."""

from __future__ import annotations

import time

import numpy as np
import pytest
from host_values import PROMPT_ENVIRONMENT
from wire import ServerProcess

from hosts.bounce import start_bounce

NOBODY = "tcp://127.0.0.1:9"
LATENCY = 150 * 1920
STEPS = 30
"""Slow enough for a server to die in the middle."""


@pytest.fixture(scope="module")
def long_music(music):
    return np.ascontiguousarray(np.tile(music, (1, 5)))


@pytest.fixture
def own_server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


def start(host, source, endpoint, timeout_s=20):
    return start_bounce(
        host, source, endpoint=endpoint, block=512, lanes={"denoise": 0.6}, state={"steps": str(STEPS)},
        environment=PROMPT_ENVIRONMENT | {"DEMON_TIMEOUT_S": str(timeout_s)},
    )  # fmt: skip


@pytest.mark.parametrize("host", ["pedalboard", "dawdreamer"])
def test_without_an_engine_the_bounce_is_the_dry_signal_after_one_time_out(music, host):
    job = start_bounce(host, music, endpoint=NOBODY, lanes={"denoise": 0.6}, environment={"DEMON_TIMEOUT_S": "2"})
    audio, report = job.finish(60)
    assert np.array_equal(audio, music)
    assert report.bounce_s < 2 + 4
    assert report.load_s < 1.0


@pytest.mark.parametrize("host", ["pedalboard", "dawdreamer"])
def test_a_server_killed_and_started_again_in_mid_bounce_changes_no_bit(own_server, reference, long_music, host):
    job = start(host, long_music, own_server.endpoint)
    time.sleep(3.0)
    assert job.process.poll() is None, "the bounce was over before the server could die: make it slower"
    own_server.kill()
    time.sleep(1.0)
    own_server.start()
    audio, report = job.finish()
    assert np.array_equal(audio, reference(long_music, steps=STEPS, denoise=0.6))
    assert report.bounce_s > 4.0


def test_a_server_killed_for_good_leaves_a_dry_bounce_after_the_time_out(own_server, reference, long_music):
    job = start("dawdreamer", long_music, own_server.endpoint, timeout_s=3)
    time.sleep(3.0)
    assert job.process.poll() is None
    own_server.kill()
    killed = time.monotonic()
    audio, _ = job.finish(60)
    assert time.monotonic() - killed < 3 + 5
    wet = reference(long_music, steps=STEPS, denoise=0.6)
    is_wet, is_dry = ((audio == other).all(axis=0) for other in (wet, long_music))
    first_dry = int(np.flatnonzero(~is_wet)[0])
    assert is_wet[:first_dry].all()
    assert 0 < first_dry < audio.shape[1]
    assert is_dry[first_dry + 512 :].all()
