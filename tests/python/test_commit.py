# SPDX-License-Identifier: Apache-2.0
"""Commits: a pure function of what was fed, in order, resumable, with feedback unrolled; long clips in windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from codec_stand_in import PositionedCodec
from track_rig import RATE, audio_of, edits, feed_clip, finish, loop_track, music, stream, take_of

from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape
from engine_server.model import windows as windows_module
from engine_server.model.windows import piece_windows, stitch_windows
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.lanes import CLIP_LANES
from engine_server.tracks.render_clip import render_clip
from engine_server.tracks.resample import resample_span
from shared_protocol.messages import make_config

FRAMES = 60
CLIP = music(FRAMES)
LANES = ("denoise", "feedback", "feedback_depth")
NEUTRAL = np.tile(np.float32([0.8, 0.0, 1.0]), (FRAMES, 1))


@pytest.fixture(scope="module")
def placed(tiny):
    """With a codec that takes no time and knows positions."""
    return dataclasses.replace(tiny, codec=PositionedCodec())


def commit(checkpoint, *, engine=None, config=None, lanes=NEUTRAL, clip=CLIP, **options):
    """The audio of a commit, and its epoch's run as it ended."""
    engine = engine or Engine(checkpoint)
    track = loop_track(checkpoint, "commit", lanes=LANES, config=config)
    engine.tracks[track.id] = track
    feed_clip(track, clip, kind="commit", lanes=lanes, **options)
    run = track._runs[1]
    windows = [window for window in finish(engine) if window.track == "commit"]
    assert not track.has_epoch(1)
    assert [window.frame for window in windows] == sorted(window.frame for window in windows)
    engine.remove(track.id)
    return audio_of(windows, "commit"), run


@pytest.fixture(scope="module")
def plain(placed):
    return commit(placed)[0]


def test_two_commits_have_the_same_bits(placed, plain, tiny):
    assert np.array_equal(plain, commit(placed)[0])
    assert np.array_equal(plain, commit(placed, engine=Engine(placed, depth=8))[0])
    assert not np.array_equal(plain, commit(placed, config=make_config("strings", 8))[0])
    assert commit(tiny)[0].shape == (2, FRAMES * 1920)  # with the codec of real checkpoints


def test_the_size_of_the_feeds_does_not_matter(placed, plain):
    for chunk in (1, 7):
        assert np.array_equal(plain, commit(placed, chunk=chunk)[0])


@pytest.mark.parametrize("deliver_from", [1, 24, 25, 31, 59])
def test_a_commit_that_is_fed_again_goes_on_with_the_same_bits(placed, plain, deliver_from):
    rest, _ = commit(placed, deliver_from=deliver_from)
    assert np.array_equal(rest, plain[:, deliver_from * 1920 :])


def test_neighbours_do_not_change_a_commit(placed, plain):
    engine = Engine(placed)
    other = loop_track(placed, "other", lanes=LANES, config=make_config("noise", 1, 3, "sde"))
    lanes = NEUTRAL.copy()
    lanes[:, 1] = 0.5
    engine.tracks["other"] = other
    feed_clip(other, music(FRAMES, seed=3), lanes=lanes)
    bounce = stream(placed, "bounce")
    engine.tracks["bounce"] = bounce
    bounce.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    bounce.feed(1, 0, CLIP, np.full((FRAMES, 1), 0.4, dtype=np.float32))
    track = loop_track(placed, lanes=LANES)
    engine.tracks[track.id] = track
    feed_clip(track, CLIP, kind="commit", lanes=NEUTRAL)
    windows = []
    while track.has_epoch(1):
        other.edit(1, edits((0, 0, FRAMES, float(np.random.default_rng(len(windows)).random()))))
        result = engine.step()
        assert not result.failures
        windows += result.windows
    assert np.array_equal(audio_of(windows, "loop"), plain)


def test_the_latents_are_those_of_the_ring_alone(placed):
    """A request made by hand from the same inputs gives the same bits."""
    _, run = commit(placed)
    clip = run.clip
    clip._history[0].clear()
    request = clip.request(0, "by hand", is_live=False)
    tokens, width = request.conditions[0].states.shape
    ring = Ring(placed.decoder, RingShape(3, FRAMES, 64, tokens, width))
    ring.admit(request)
    done = []
    while not done:
        done = ring.tick()
    assert torch.equal(done[0].latent, run.latents())


def test_feedback_is_unrolled_from_the_source(placed, plain):
    """Round by round, by hand: each is a commit of the blend of the source with earlier results."""
    lanes = NEUTRAL.copy()
    lanes[:, 1] = np.linspace(0.0, 1.0, FRAMES)
    lanes[30:, 2] = 2.0
    once, _ = commit(placed, lanes=lanes, config=make_config("strings", 7))
    assert np.array_equal(once, plain)
    thrice, run = commit(placed, lanes=lanes, config=make_config("strings", 7, feedback_rounds=3))
    assert not np.array_equal(thrice, plain)

    history = []
    source = torch.from_numpy(np.stack([CLIP[0, ::30].reshape(FRAMES, 64)])[0])
    share = torch.from_numpy(lanes[:, 1:2].copy())
    for _ in range(3):
        given = source
        if history:
            earlier = torch.stack([history[min(int(d), len(history)) - 1][f] for f, d in enumerate(lanes[:, 2])])
            given = torch.where(
                share == 0, source, torch.where(share == 1, earlier, (1 - share) * source + share * earlier)
            )
        run.clip._history[0].clear()
        request = dataclasses.replace(run.clip.request(0, "by hand", is_live=False), source=given)
        ring = Ring(placed.decoder, RingShape(4, FRAMES, 64, *request.conditions[0].states.shape))
        ring.admit(request)
        done = []
        while not done:
            done = ring.tick()
        history.insert(0, done[0].latent)
    assert torch.equal(history[0], run.latents())


@pytest.fixture
def short_windows(monkeypatch):
    """Clips beyond 50 frames are long."""
    monkeypatch.setattr(windows_module, "LONGEST_WINDOW", 50)
    monkeypatch.setattr(windows_module, "SLIDING_WINDOW", 60)
    monkeypatch.setattr(windows_module, "SLIDING_OVERLAP", 30)


@pytest.mark.parametrize("frames", [83, 110])
def test_long_clips_are_stitched_as_a_sessions_are(placed, short_windows, frames):
    clip, lanes = music(frames), np.tile(NEUTRAL[:1], (frames, 1))
    audio, run = commit(placed, clip=clip, lanes=lanes)
    assert audio.shape[1] == frames * 1920
    spans = piece_windows(frames)
    assert run.clip.windows == spans
    assert len(spans) > 1
    parts = {span.first: run._result._parts[k] for k, span in enumerate(spans)}
    assert torch.equal(run.latents(), stitch_windows(parts, windows_module.SLIDING_CROSSFADE)[:frames])


@pytest.mark.parametrize("start", [0, -13])
def test_a_long_loop_rests_on_the_bits_of_its_commit(placed, short_windows, start):
    frames = 83
    clip, lanes = music(frames), np.tile(NEUTRAL[:1], (frames, 1))
    expected, _ = commit(placed, clip=clip, lanes=lanes, start=start)
    engine, track = Engine(placed), loop_track(placed, lanes=LANES)
    engine.tracks[track.id] = track
    feed_clip(track, clip, lanes=lanes, start=start)
    track.skip(1, start + 70)
    windows = finish(engine)
    assert windows[0].frame - start >= 50  # made around the playhead first
    assert np.array_equal(take_of(windows), expected)
    track.edit(1, edits((0, 0, 5, 0.2)))
    windows += finish(engine)
    lanes[:5, 0] = 0.2
    assert np.array_equal(take_of(windows), commit(placed, clip=clip, lanes=lanes, start=start)[0])


def test_a_render_of_a_clip_is_a_commit(placed, plain):
    table = build_table({"denoise": 0.8}, FRAMES, CLIP_LANES)
    config = make_config("strings", 7)
    assert np.array_equal(render_clip(Engine(placed), CLIP, RATE, table, config), plain)
    cut = render_clip(Engine(placed), CLIP[:, :-700], RATE, table, config)
    assert cut.shape[1] == CLIP.shape[1] - 700


@pytest.mark.parametrize("rate", [44_100, 96_000])
def test_other_rates_keep_length_and_place(placed, rate):
    held = np.tile(np.float32([0.0, 0.0, 1.0]), (30, 1))
    clip = music(30, rate=rate)
    engine = Engine(placed)
    track = loop_track(placed, lanes=LANES, rate=rate)
    engine.tracks[track.id] = track
    feed_clip(track, clip, kind="commit", lanes=held)
    audio = audio_of(finish(engine), "loop")
    assert audio.shape == clip.shape
    at_model_rate = resample_span(np.pad(clip, ((0, 0), (rate // 25, rate // 25))), rate, RATE)
    expected, _ = commit(placed, clip=at_model_rate, lanes=held)
    inside = resample_span(expected, RATE, rate)
    np.testing.assert_allclose(audio[:, rate // 25 : -rate // 25], inside, atol=2e-3)
