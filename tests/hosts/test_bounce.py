# SPDX-License-Identifier: Apache-2.0
"""Bounces through the real bundle: the same bits in every host, for every block size, and from `demon render`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from host_values import PROMPT_ENVIRONMENT

from hosts.bounce import bounce, start_bounce
from shared_protocol.timebase import samples_per_frame

HOSTS = ("pedalboard", "dawdreamer")
BLOCKS = (64, 480, 512, 1920, 4096)
FRAME = 1920
GLIDE = 1024
"""Samples after which a mix that jumped has arrived: it glides, so as not to click."""


@pytest.fixture
def play(server):
    """Bounce with the tiny checkpoint's server."""

    def run(host, source, **options):
        return bounce(host, source, endpoint=server.endpoint, environment=PROMPT_ENVIRONMENT, **options)

    return run


def steps(*values, every):
    """A curve that holds each value for `every` frames."""
    return np.repeat(np.array(values, dtype=np.float32), every)


COARSE = {
    "denoise": steps(0.5, 0.9, 0.2, 1.0, 0.0, 0.6, every=32),
    "velocity_scale": steps(1.0, 0.8, 1.25, every=64),
}
FINE = {
    "denoise": steps(*np.random.default_rng(1).random(64), every=3),
    "source_blend": steps(1.0, 0.0, 0.5, 1.0, every=37),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", BLOCKS)
def test_constant_lanes(play, reference, music, host, block):
    assert np.array_equal(play(host, music, block=block, lanes={"denoise": 0.6}), reference(music, denoise=0.6))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", BLOCKS)
def test_lanes_that_step_on_common_block_edges(play, reference, music, host, block):
    assert np.array_equal(play(host, music, block=block, lanes=COARSE), reference(music, **COARSE))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", [64, 480, 1920])
def test_lanes_that_step_on_any_frame_for_blocks_that_meet_every_frame(play, reference, music, host, block):
    assert np.array_equal(play(host, music, block=block, lanes=FINE), reference(music, **FINE))


@pytest.mark.parametrize("host", HOSTS)
def test_a_rate_of_44_100(play, reference, music, host):
    source = np.ascontiguousarray(music[:, : 100 * 1764 + 11])
    out = play(host, source, rate=44_100, block=441, lanes={"denoise": 0.7})
    assert np.array_equal(out, reference(source, rate=44_100, denoise=0.7))


@pytest.mark.parametrize("host", HOSTS)
def test_mix_at_zero_returns_the_input_bit_for_bit(play, music, host):
    assert np.array_equal(play(host, music, block=480, lanes={"mix": 0.0}), music)


def test_mix_sounds_where_it_is_drawn(play, reference, music):
    frames = music.shape[1] // FRAME
    mix = np.where(np.arange(frames) < 101, 1.0, 0.0)
    out = play("dawdreamer", music, block=64, lanes={"mix": mix, "denoise": 0.6})
    wet = reference(music, denoise=0.6)
    edge = 101 * FRAME
    assert np.array_equal(out[:, :edge], wet[:, :edge])
    assert np.array_equal(out[:, edge + GLIDE :], music[:, edge + GLIDE :])


def test_impulses_of_a_held_source_come_out_at_the_samples_of_the_codec_alone(play, tiny):
    source = np.zeros((2, 150 * FRAME), dtype=np.float32)
    source[:, 5000::17_111] = 0.9
    out = play("dawdreamer", source, block=512, lanes={"source_blend": 0.0, "denoise": 1.0})
    around = np.pad(source, ((0, 0), (40 * FRAME, 40 * FRAME)))
    with torch.no_grad():
        latents = tiny.codec.encode(torch.from_numpy(around)[None])
        latents[:, :40] = tiny.silence
        alone = tiny.codec.decode(latents, -40)[0].numpy()[:, 40 * FRAME : -40 * FRAME]
    np.testing.assert_allclose(out, alone, atol=1e-6)


def test_a_stepped_lane_changes_the_sound_from_its_frame_on(play, tiny, music):
    """Freedom falls from 1 to 0 at frame 93: hops whose window ends before are untouched, frames after are the source."""
    from engine_server.tracks.track import track_geometry

    step, frames = 93, music.shape[1] // FRAME
    blend = np.where(np.arange(frames) < step, 1.0, 0.0)
    free, stepped, held = (
        play("dawdreamer", music, block=480, lanes={"denoise": 1.0, "source_blend": lane}) for lane in (1.0, blend, 0.0)
    )
    geometry, reach = track_geometry(tiny, 48_000), tiny.codec.decoder_margin
    last_untouched = max(k for k in range(frames) if geometry.window_span(k).stop <= step)
    same = geometry.audio_span(last_untouched).stop * FRAME
    assert np.array_equal(free[:, :same], stepped[:, :same])
    changed = np.flatnonzero((stepped != free).any(axis=0))[0] // FRAME
    assert changed >= geometry.audio_span(last_untouched).stop
    assert np.array_equal(stepped[:, (step + reach) * FRAME :], held[:, (step + reach) * FRAME :])
    differs = np.flatnonzero((stepped != held).any(axis=0))[-1] // FRAME
    assert step - 1 <= differs < step + reach


def test_latency_is_whole_frames_at_the_hosts_rate(server, music):
    for rate in (44_100, 48_000, 96_000):
        job = start_bounce("dawdreamer", music[:, : 2 * rate], endpoint=server.endpoint, rate=rate, block=512)
        assert job.finish()[1].latency == 150 * samples_per_frame(rate)
