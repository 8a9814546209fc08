# SPDX-License-Identifier: Apache-2.0
"""In a real DAW: sessions of Ardour 7 that a script makes, exports and rolls."""

from __future__ import annotations

import json
import subprocess

import ardour_session
import numpy as np
import pytest
from ardour_session import ArdourSession
from host_values import PROMPT_ENVIRONMENT
from wire import ServerProcess

from hosts.bounce import bounce

pytestmark = pytest.mark.skipif(ardour_session.why_not() is not None, reason=str(ardour_session.why_not()))

RATE, FRAME = 48_000, 1920
LATENCY = 150
"""Frames."""
LEAD_IN = 180
"""Silent frames before the music. Ardour starts the plugin a little after the session's start, pedalboard at the very
start: this is more than the engine looks back, so that what came before is the same."""
START = 2
"""The frame of the material that the export begins with."""
ROLLED_S = 16.0


@pytest.fixture(scope="module")
def trained(trained_folder):
    with ServerProcess(str(trained_folder)) as process:
        yield process


@pytest.fixture(scope="module")
def material(music):
    """The lead-in and 7.68 s of music."""
    return np.pad(music, ((0, 0), (LEAD_IN * FRAME, 0)))


@pytest.fixture(scope="module")
def lanes(material):
    """Steps on frames, at other ones than the edges of Ardour's blocks."""
    frames, random = material.shape[1] // FRAME, np.random.default_rng(1)
    denoise = np.repeat(random.random(frames // 3), 3)
    velocity = np.repeat(random.uniform(0.8, 1.25, frames // 31 + 1), 31)[:frames]
    return {"denoise": denoise.astype(np.float32), "velocity_scale": velocity.astype(np.float32)}


@pytest.fixture(scope="module")
def session(tmp_path_factory, bundle, trained, material, lanes):
    """The material comes one latency after its automation; see ardour_session.py for why."""
    folder = tmp_path_factory.mktemp("ardour")
    environment = PROMPT_ENVIRONMENT | {"DEMON_ENDPOINT": trained.endpoint, "DEMON_PROBE_LOG": str(folder / "blocks")}
    session = ArdourSession(folder, bundle, environment)
    session.make(material, lanes, at=LATENCY, start=LATENCY + START)
    return session


@pytest.fixture(scope="module")
def bounced(trained, material, lanes):
    """What pedalboard makes of the same."""
    return bounce("pedalboard", material, endpoint=trained.endpoint, lanes=lanes, environment=PROMPT_ENVIRONMENT)


@pytest.fixture(scope="module")
def exported(session):
    """The export, and the blocks that the plugin was given."""
    return export(session)


def export(session):
    """As `exported`. On a busy machine Ardour 7.3 stands still now and then before its transport rolls, its butler thread waiting
    for a lock: then it is started once more. An export that stands still later, with the plugin at work, is a failure."""
    log = session.folder.parent / "blocks"
    log.unlink()
    try:
        return session.export(), read_blocks(log)
    except subprocess.TimeoutExpired:
        if log.exists() and read_blocks(log):
            raise
    log.unlink(missing_ok=True)
    return session.export(), read_blocks(log)


def read_blocks(log):
    """Those in which the transport rolled."""
    return [block for block in map(json.loads, log.read_text().splitlines()) if block["playing"]]


def test_an_export_has_the_bits_of_pedalboards_bounce(exported, bounced):
    audio, blocks = exported
    assert all(block["offline"] for block in blocks)
    assert audio.shape[1] == bounced.shape[1] - START * FRAME
    music = LEAD_IN * FRAME
    assert np.abs(bounced[:, music:]).max() > 0.1
    assert np.array_equal(audio[:, music - START * FRAME :], bounced[:, music:])


def test_the_automation_is_followed_on_every_frame(exported, lanes):
    """Ardour gives a whole block the newest value, so blocks that hold a frame's first sample tell."""
    _, blocks = exported
    denoise, seen = lanes["denoise"], set()
    for block in blocks:
        frame = -(-block["position"] // FRAME)
        if 0 <= frame < len(denoise) and frame * FRAME < block["position"] + block["n"]:
            assert block["denoise"] == pytest.approx(denoise[frame], abs=2e-5), block
            seen.add(frame)
    assert len(seen) > 0.95 * (len(denoise) - START)


def test_a_second_export_has_the_same_bits(session, exported):
    assert np.array_equal(export(session)[0], exported[0])


def test_a_roll_in_real_time_plays_what_the_engine_sends(session):
    log = session.folder.parent / "blocks"
    log.unlink()
    roll = session.roll(ROLLED_S)
    blocks = read_blocks(log)
    assert roll.rolled
    assert roll.xruns == 0
    assert roll.sample > (ROLLED_S / 2 - LATENCY / 25) * RATE
    assert not any(block["offline"] for block in blocks)
    ends = [block["position"] + block["n"] for block in blocks]
    assert [block["position"] for block in blocks[1:]] == ends[:-1], "the plugin did not see a steady transport"
    first = next(k for k, block in enumerate(blocks) if block["wet"])
    assert not any(block["late"] for block in blocks[first:]), "windows came late"
    played = sum(block["n"] for block in blocks[first:] if block["wet"])
    assert played == sum(block["n"] for block in blocks[first:])
    assert played > 3 * RATE
