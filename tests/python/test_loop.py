# SPDX-License-Identifier: Apache-2.0
"""Loops: takes, their rhythm and rest, what an edit reaches and when, and what is decoded first."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from codec_stand_in import PositionedCodec
from track_rig import edits, feed_clip, finish, loop_track, music, stream, take_of, write_lora

from engine_server.tracks.clip_result import DECODE_FRAMES
from engine_server.tracks.engine import Engine, StepResult
from engine_server.tracks.loop import UNHEARD_TAKES
from shared_protocol.errors import DemonError
from shared_protocol.messages import make_config

FRAMES = 60
CLIP = music(FRAMES)
LANES = ("denoise", "velocity_scale", "source_blend", "guidance", "feedback", "lora_1", "dcw_scaler", "gain_00_07")
NEUTRAL = np.tile(np.float32([0.8, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]), (FRAMES, 1))
STEPS = 4  # of the tiny checkpoint


@pytest.fixture(scope="module")
def tiny(tiny):
    """With a codec that takes no time and knows positions: what is decoded where is what these tests ask."""
    return dataclasses.replace(tiny, codec=PositionedCodec())


def started(tiny, *, depth=4, config=None, lanes=NEUTRAL, **options):
    engine = Engine(tiny, depth=depth)
    track = loop_track(tiny, lanes=LANES, config=config)
    engine.tracks[track.id] = track
    feed_clip(track, CLIP, lanes=lanes, **options)
    return engine, track


def run(engine, ticks, *, playing=None):
    """Step; the playhead of the track `playing` moves. (tick, window) of all that came."""
    windows = []
    for tick in range(ticks):
        if playing:
            playing.skip(1, tick)
        result = engine.step()
        assert not result.failures
        windows += [(tick, window) for window in result.windows]
    return windows


def committed(tiny, *, config=None, lanes=NEUTRAL, start=0, depth=4):
    engine, _ = started(tiny, config=config, lanes=lanes, kind="commit", start=start, depth=depth)
    windows = finish(engine)
    assert [window.take for window in windows] == [0] * len(windows)
    return np.concatenate([window.audio for window in windows], axis=1)


@pytest.fixture(scope="module")
def plain(tiny):
    return committed(tiny)


@pytest.mark.parametrize("start", [0, -7, 1003])
def test_a_loop_that_nobody_touches_rests_on_the_bits_of_its_commit(tiny, start):
    engine, track = started(tiny, start=start)
    windows = finish(engine)
    assert {window.take for window in windows} == {1}
    assert sorted(window.frame - start for window in windows) == [0, 25, 50]
    assert np.array_equal(take_of(windows), committed(tiny, start=start))
    assert not engine.has_work()
    assert track.has_epoch(1)


def test_an_edit_ends_in_the_bits_of_a_commit_of_the_edited_lanes(tiny, plain):
    engine, track = started(tiny)
    windows = finish(engine)
    track.edit(1, edits((0, 10, 40, 0.3), (1, 0, FRAMES, 1.5), (3, 20, FRAMES, 4.0), (7, 5, 9, 2.0)))
    assert engine.has_work()
    windows += finish(engine)
    drawn = NEUTRAL.copy()
    drawn[10:40, 0], drawn[:, 1], drawn[20:, 3], drawn[5:9, 7] = 0.3, 1.5, 4.0, 2.0
    assert np.array_equal(take_of(windows), committed(tiny, lanes=drawn))
    assert not np.array_equal(take_of(windows), plain)


def test_an_edit_that_changes_nothing_starts_nothing(tiny):
    engine, track = started(tiny)
    finish(engine)
    track.edit(1, edits((0, 0, FRAMES, 0.8)))
    assert not engine.has_work()


@pytest.mark.parametrize(("steps", "depth"), [(4, 4), (8, 4), (6, 4), (2, 4), (8, 8)])
def test_takes_come_evenly(tiny, steps, depth):
    """With feedback the loop does not rest while it is listened to."""
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.5
    engine, track = started(tiny, depth=depth, config=make_config("strings", 7, steps), lanes=lanes)
    engine.step()  # encodes what came in
    ticks = [tick for tick, _ in _takes(run(engine, 5 * steps, playing=track))]
    gaps = set(np.diff(ticks[1:]))
    assert gaps <= {max(1, math.floor(steps / depth)), max(1, math.ceil(steps / depth))}


def _takes(windows):
    """The first window of every take."""
    seen = set()
    for tick, window in windows:
        if window.take not in seen:
            seen.add(window.take)
            yield tick, window.take


def test_a_turned_step_time_lane_is_heard_with_the_next_completion(tiny):
    """At most ceil(S / D) ticks to the next completion, whose first window is decoded in the same step; all of it after S."""
    steps, depth = 8, 4
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.5
    engine, track = started(tiny, depth=depth, config=make_config("strings", 7, steps), lanes=lanes)
    run(engine, 3 * steps + 1)
    flying = set(track._runs[1]._flights)
    track.edit(1, edits((1, 0, FRAMES, 0.0)))
    heard = list(_takes(run(engine, math.ceil(steps / depth))))
    assert {take for _, take in heard} & flying
    untouched, _ = started(tiny, depth=depth, config=make_config("strings", 7, steps), lanes=lanes)
    run(untouched, 3 * steps + 1)
    again = run(untouched, math.ceil(steps / depth))
    assert {take for _, take in _takes(again)} == {take for _, take in heard}


def test_an_edit_in_flight_is_a_change_of_the_remaining_steps(tiny):
    """Where the schedule is at its first step, the take is that of the edited lanes from the beginning."""
    drawn = NEUTRAL.copy()
    drawn[:, 1], drawn[:, 2], drawn[:, 3], drawn[:, 6] = 1.3, 0.5, 3.0, 0.2
    engine, track = started(tiny)
    engine.step()  # encodes what came in
    engine._admit(StepResult())  # take 1 is in flight and has made no step
    assert list(track._runs[1]._flights) == [1]
    track.edit(1, edits((1, 0, FRAMES, 1.3), (2, 0, FRAMES, 0.5), (3, 0, FRAMES, 3.0), (6, 0, FRAMES, 0.2)))
    windows = finish(engine)
    assert np.array_equal(take_of(windows), committed(tiny, lanes=drawn))
    second, first = track._runs[1].clip._history[0]
    assert torch.equal(first, second)


def test_a_take_in_flight_finishes_with_the_configuration_that_it_has(tiny):
    """An edit reaches only the takes of the present one, which may name what is not here."""
    engine, track = started(tiny, config=make_config("strings", 7))
    while not engine._flights:
        engine.step()
    track.sound.configure(make_config("strings", 7, loras=["0f" * 32]))
    track.edit(1, edits((0, 10, 40, 0.3)))
    assert not engine.step().failures
    track.sound.configure(make_config("strings", 7))
    heard = take_of(finish(engine))
    lanes = NEUTRAL.copy()
    lanes[10:40, 0] = 0.3
    assert np.array_equal(heard, committed(tiny, config=make_config("strings", 7), lanes=lanes))


def test_what_fails_in_making_an_edit_heard_fails_that_clip_alone(tiny, monkeypatch):
    engine, track = started(tiny)
    while not engine._flights:
        engine.step()
    monkeypatch.setattr(track._runs[1].clip, "step_time", lambda *_: 1 / 0)
    track.edit(1, edits((0, 10, 40, 0.3)))
    ((hop, error),) = engine.step().failures
    assert (hop.epoch, type(error)) == (1, ZeroDivisionError)
    assert not track.has_epoch(1)


def test_live_edits_of_one_loop_leave_a_neighbour_in_the_same_ring_alone(tiny, plain):
    engine, busy = started(tiny)
    calm = loop_track(tiny, "calm", lanes=LANES)
    engine.tracks[calm.id] = calm
    feed_clip(calm, CLIP, lanes=NEUTRAL)
    rng = np.random.default_rng(5)
    windows = []
    for _ in range(30):
        column, value = int(rng.integers(0, 4)), float(rng.random())
        busy.edit(1, edits((column, int(rng.integers(0, 30)), FRAMES, value)))
        result = engine.step()
        assert not result.failures
        windows += [window for window in result.windows if window.track == "calm"]
    assert len(engine._rings) == 1
    engine.remove(busy.id)
    windows += finish(engine)
    assert np.array_equal(take_of(windows), plain)


def test_a_stream_beside_a_loop_keeps_its_bits(tiny):
    def bounce(engine):
        track = stream(tiny)
        engine.tracks[track.id] = track
        track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
        track.feed(1, 0, CLIP, np.full((FRAMES, 1), 0.8, dtype=np.float32))
        track.finish(1, FRAMES)
        windows = []
        for _ in range(200):
            windows += [window for window in engine.step().windows if window.track == "t"]
        engine.remove("t")
        return np.concatenate([window.audio for window in windows], axis=1)

    alone = bounce(Engine(tiny))
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.5
    engine, _ = started(tiny, lanes=lanes)
    assert np.array_equal(bounce(engine), alone)


def test_what_sounds_next_is_decoded_first_and_only_what_is_new(tiny):
    engine, track = started(tiny)
    track.skip(1, 30)
    windows = finish(engine)
    assert [window.frame for window in windows] == [25, 50, 0]
    track.skip(1, 55)
    track.edit(1, edits((0, 0, FRAMES, 0.5)))
    assert [window.frame for window in finish(engine)] == [50, 0, 25]
    track.skip(1, 10_000)  # outside the clip: from its first frame
    track.edit(1, edits((0, 0, FRAMES, 0.6)))
    assert [window.frame for window in finish(engine)] == [0, 25, 50]


def test_one_window_is_decoded_per_step(tiny):
    engine, _ = started(tiny)
    for _ in range(STEPS + 10):
        assert len(engine.step().windows) <= 1


def test_windows_lie_on_the_grid_of_the_clip(tiny):
    engine, _ = started(tiny, start=13)
    windows = finish(engine)
    assert all((window.frame - 13) % DECODE_FRAMES == 0 for window in windows)
    assert sum(window.count for window in windows) == FRAMES


def test_feedback_goes_on_for_ever_and_each_take_hears_the_one_before(tiny, plain):
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.7
    engine, track = started(tiny, lanes=lanes, depth=1)
    windows = [window for _, window in run(engine, 8 * STEPS)]
    assert engine.has_work()
    first, second = (
        np.concatenate([w.audio for w in sorted(windows, key=lambda w: w.frame) if w.take == take and w.frame == 0], 1)
        for take in (1, 2)
    )
    size = first.shape[1]
    assert np.array_equal(first, plain[:, :size])  # nothing to feed back yet
    twice = committed(tiny, config=make_config("strings", 7, feedback_rounds=2), lanes=lanes)
    assert np.array_equal(second, twice[:, :size])
    track.edit(1, edits((4, 0, FRAMES, 0.0)))
    windows += finish(engine)
    assert np.array_equal(take_of(windows), plain)


def test_feedback_rests_when_nobody_listens_and_goes_on_when_the_playhead_moves(tiny):
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.7
    engine, track = started(tiny, lanes=lanes)
    last = max(window.take for window in finish(engine))
    assert last >= UNHEARD_TAKES
    track.skip(1, 5)
    assert engine.has_work()
    assert max(window.take for window in finish(engine)) > last
    track.skip(1, 5)
    assert not engine.has_work()
    track.edit(1, edits((0, 0, FRAMES, 0.5)))
    assert engine.has_work()  # a change is made at once


def test_a_configuration_is_heard_with_the_next_take(tiny):
    engine, track = started(tiny)
    finish(engine)
    track.sound.configure(make_config("strings", 7))
    assert not engine.has_work()
    track.sound.configure(make_config("brass", 8))
    assert np.array_equal(take_of(finish(engine)), committed(tiny, config=make_config("brass", 8)))


def test_a_take_that_a_shorter_one_overtook_is_not_shown(tiny):
    engine, track = started(tiny, config=make_config("strings", 7, 40))
    run(engine, 5)
    track.sound.configure(make_config("strings", 7, 2))
    windows = finish(engine)
    assert np.array_equal(take_of(windows), committed(tiny, config=make_config("strings", 7, 2)))
    assert all(window.take > 1 for window in windows)


def test_a_flood_of_edits_costs_no_tick(tiny):
    """Every lane edited at every frame, 25 times a second: every step still ticks, and takes come as often as ever."""
    lanes = NEUTRAL.copy()
    lanes[:, 4] = 0.5
    engine, track = started(tiny, lanes=lanes)
    engine.step()
    before = list(_takes(run(engine, 20)))
    flood = edits(*((column, frame, frame + 1, 0.5) for column in (0, 1, 2, 6) for frame in range(FRAMES)))
    after = []
    for tick in range(20):
        flood[:, 3] = 0.3 + 0.001 * tick
        track.edit(1, flood)
        after += [(tick, window) for _, window in run(engine, 1)]
    ring = next(iter(engine._rings.values()))
    assert ring.ticks == 41 - 1
    assert len(list(_takes(after))) >= len(before) - 1


def test_drop_ends_a_loop(tiny):
    engine, track = started(tiny)
    run(engine, 2)
    engine.drop(track.id, 1)
    assert not engine.has_work()
    assert not engine.progress()
    track.feed(1, 0, CLIP[:, :1920], NEUTRAL[:1])  # a repeat of what is over is harmless


def test_a_clip_that_fails_fails_alone(tiny, plain):
    engine, _ = started(tiny)
    broken = loop_track(tiny, "broken", lanes=LANES)
    engine.tracks[broken.id] = broken
    feed_clip(broken, np.full_like(CLIP, np.nan), lanes=NEUTRAL)
    failures, windows = [], []
    while engine.has_work():
        result = engine.step()
        failures += result.failures
        windows += result.windows
    assert {hop.track for hop, _ in failures} == {"broken"}
    assert not broken.has_epoch(1)
    assert np.array_equal(take_of(windows), plain)


@pytest.mark.parametrize("frames", [1, 2, 3, 24, 25, 26])
def test_clips_of_any_length(tiny, frames):
    engine = Engine(tiny)
    track = loop_track(tiny)
    engine.tracks[track.id] = track
    feed_clip(track, CLIP[:, : frames * 1920], start=5)
    windows = finish(engine)
    assert take_of(windows).shape[1] == frames * 1920
    feed_clip(track, CLIP[:, : frames * 1920], start=5, epoch=2, kind="commit")
    assert np.array_equal(take_of(finish(engine), 2), take_of(windows))


def test_what_a_client_may_do_wrong_has_a_name(tiny):
    def code_of(action):
        with pytest.raises(DemonError) as caught:
            action()
        return caught.value.code

    track = loop_track(tiny, lanes=LANES)
    begin = {"start": 0, "feed_from": 0, "deliver_from": 0, "offline": False}
    assert code_of(lambda: track.begin(1, kind="stream", **begin)) == "E_FIELD"
    assert code_of(lambda: track.begin(1, kind="loop", **(begin | {"feed_from": 3}))) == "E_FIELD"
    assert code_of(lambda: stream(tiny).begin(1, kind="loop", **begin)) == "E_FIELD"
    assert code_of(lambda: track.edit(1, edits((0, 0, 1, 0.5)))) == "E_EPOCH"
    track.begin(1, kind="loop", **begin)
    assert code_of(lambda: track.finish(1, 0)) == "E_CLIP"
    assert not track.has_epoch(1)
    track.begin(2, kind="loop", **begin)
    track.feed(2, 0, CLIP, NEUTRAL)
    for wrong, code in (
        ((8, 0, 1, 0.5), "E_FIELD"),
        ((-1, 0, 1, 0.5), "E_FIELD"),
        ((0.5, 0, 1, 0.5), "E_FIELD"),
        ((0, 0, FRAMES + 1, 0.5), "E_FIELD"),
        ((0, 5, 5, 0.5), "E_FIELD"),
        ((0, 9, 5, 0.5), "E_FIELD"),
        ((0, -1, 5, 0.5), "E_FIELD"),
        ((0, 0, 1, 1.5), "E_LANE_RANGE"),
    ):
        assert code_of(lambda wrong=wrong: track.edit(2, edits((1, 0, 1, 0.5), wrong))) == code
    assert (track._runs[2].clip.table.lane("velocity_scale", track._runs[2].clip.windows or _span()) == 1.0).all()
    track.finish(2, FRAMES)
    assert code_of(lambda: track.feed(2, FRAMES, CLIP, NEUTRAL)) == "E_EPOCH"
    track.begin(3, kind="commit", **begin)
    assert code_of(lambda: track.edit(3, edits((0, 0, 1, 0.5)))) == "E_EPOCH"
    assert (
        code_of(lambda: loop_track(tiny, rate=48_000).begin(1, kind="loop", **(begin | {"deliver_from": -1})))
        == "E_FIELD"
    )


def _span():
    from engine_server.model.windows import Span

    return Span(0, FRAMES)


def test_a_clip_beyond_the_limit_is_dropped(tiny, monkeypatch):
    monkeypatch.setattr("engine_server.tracks.clip.CLIP_LIMIT", 50)
    track = loop_track(tiny)
    track.begin(1, kind="loop", start=0, feed_from=0, deliver_from=0, offline=False)
    with pytest.raises(DemonError, match="E_CLIP"):
        track.feed(1, 0, CLIP, np.full((FRAMES, 1), 0.5, dtype=np.float32))
    assert not track.has_epoch(1)


def test_a_lora_lane_acts_on_what_is_in_flight(tiny, tmp_path, plain):
    write_lora(tmp_path / "choir.safetensors", tiny)
    engine = Engine(tiny, loras=[tmp_path])
    config = make_config("strings", 7, loras=[engine.loras.find("choir")])

    def played(name, epoch, kind, lanes):
        track = loop_track(tiny, name, lanes=LANES, config=config, loras=engine.loras)
        engine.tracks[name] = track
        feed_clip(track, CLIP, epoch=epoch, kind=kind, lanes=lanes)
        return track

    drawn = NEUTRAL.copy()
    drawn[:, 5] = 1.5
    played("commit", 1, "commit", drawn)
    expected = take_of(finish(engine))
    assert not np.array_equal(expected, plain)
    engine.remove("commit")
    track = played("live", 1, "loop", NEUTRAL)
    calm = played("calm", 2, "loop", NEUTRAL)
    engine.step()
    engine._admit(StepResult())
    track.edit(1, edits((5, 0, FRAMES, 1.5)))
    windows = finish(engine)
    assert np.array_equal(take_of([window for window in windows if window.track == "live"]), expected)
    second, first = track._runs[1].clip._history[0]
    assert torch.equal(first, second)
    assert calm.has_epoch(2)
    assert np.array_equal(take_of([window for window in windows if window.track == "calm"], 2), plain)


def test_a_loop_stands_still_while_a_live_stream_would_be_late(tiny):
    """By a clock that says how long a step takes: no more than three steps in a row, and not without need."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    for seconds, is_late in ((0.001, False), (1.0, True)):
        clock = Clock()
        engine = Engine(tiny, clock=clock)
        lanes = NEUTRAL.copy()
        lanes[:, 4] = 0.5
        loop, live = loop_track(tiny, lanes=LANES), stream(tiny, latency=110)
        for track in (loop, live):
            engine.tracks[track.id] = track
        feed_clip(loop, CLIP, lanes=lanes)
        for _ in range(3):
            engine.step()
        live.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
        live.feed(1, 0, CLIP, np.full((FRAMES, 1), 0.8, dtype=np.float32))
        live.finish(1, FRAMES)
        ring = engine._rings[next(key for key in engine._rings if key[0] == FRAMES)]
        engine._step_s = seconds
        moved = []
        while live.has_epoch(1):
            before = ring.ticks
            engine._measure = lambda _: None
            engine.step()
            clock.now += seconds
            moved.append(ring.ticks > before)
        assert all(moved) != is_late
        assert not any(not any(moved[k : k + 4]) for k in range(len(moved) - 3))
