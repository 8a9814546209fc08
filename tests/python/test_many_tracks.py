# SPDX-License-Identifier: Apache-2.0
"""Many tracks over one ring: nobody's bits depend on the neighbours, everybody gets a share, and nothing is left behind.

Time is a clock that the tests move: what is late, and what is urgent, is the same on every machine.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from codec_stand_in import PositionedCodec
from track_rig import FRAME, audio_of, feed_clip, finish, loop_track, music, stream, take_of, write_lora

from engine_server.tracks.engine import WORK_AT_ONCE, Engine
from engine_server.tracks.stats import TrackStats
from shared_protocol.messages import make_config
from shared_protocol.timebase import FRAMES_PER_SECOND

LANES = ("denoise", "velocity_scale", "source_blend", "guidance", "prompt_blend", "lora_1", "feedback")
NEUTRAL = np.float32([0.8, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
FRAMES, HOP = 60, 20
LONG_PROMPT = "strings " * 60
"""More tokens than the usual condition has: it goes into another ring."""


class Clock:
    """Seconds, as the test says."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def tiny(tiny):
    """With a codec that takes no time and knows positions."""
    return dataclasses.replace(tiny, codec=PositionedCodec())


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Two LoRAs, `a` and `b`."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate("ab"):
        write_lora(folder / f"{name}.safetensors", tiny, seed=seed, scale=3.0)
    return folder


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def engine(tiny, clock):
    return Engine(tiny, clock=clock)


class Part:
    """One of the fifteen: what it plays, and from which step of the engine on it feeds a hop per step."""

    def __init__(self, k):
        self.k, self.name, self.is_loop = k, f"live{k}", k % 4 == 3
        self.joins = 2 * (k % 5)
        rng = np.random.default_rng(k)
        self.audio = music(FRAMES, seed=k)
        self.lanes = np.tile(NEUTRAL, (FRAMES, 1))
        self.lanes[:, 0] = rng.uniform(0.3, 1.0, FRAMES)
        self.lanes[:, 1] = rng.uniform(0.7, 1.3)
        self.lanes[20:, 2] = rng.uniform(0.2, 1.0)
        self.lanes[:, 3] = 3.0 if k % 3 == 1 else 1.0
        self.lanes[:, 4] = 0.5 if k % 5 == 2 else 0.0
        self.lanes[:, 5] = 1.0 if k % 2 else 0.0

    def track(self, engine):
        loras = [engine.loras.find("ab"[self.k % 2])] if self.k % 3 else []
        config = make_config(
            LONG_PROMPT if self.k == 6 else f"prompt {self.k}",
            1000 + self.k,
            2 + self.k % 5,
            "sde" if self.k % 2 else "ode",
            prompt_b="piano",
            loras=loras,
        )
        make = loop_track if self.is_loop else stream
        return make(engine.checkpoint, self.name, config=config, lanes=LANES, loras=engine.loras)

    def play(self, engine, step):
        """What its client does before a step of the engine."""
        if step == self.joins:
            track = engine.tracks[self.name] = self.track(engine)
            if self.is_loop:
                feed_clip(track, self.audio, lanes=self.lanes)
            else:
                track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
        if self.is_loop:
            return
        first = HOP * (step - self.joins)
        if 0 <= first < FRAMES:
            audio = self.audio[:, first * FRAME : (first + HOP) * FRAME]
            engine.tracks[self.name].feed(1, first, audio, self.lanes[first : first + HOP])
        elif first == FRAMES:
            engine.tracks[self.name].finish(1, FRAMES)


class Bounce(Part):
    """The first of them offline, fed all at once: it gets the same bits."""

    def __init__(self):
        super().__init__(0)
        self.name, self.joins = "bounce", 3

    def play(self, engine, step):
        if step == self.joins:
            track = engine.tracks[self.name] = self.track(engine)
            track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
            track.feed(1, 0, self.audio, self.lanes)
            track.finish(1, FRAMES)


def perform(engine, parts, *, seconds_per_step=0.0, limit=2000, at=lambda step: None):
    """Step until everybody has played and the engine rests: all windows, and all failures."""
    windows, failures = [], []
    for step in range(limit):
        for part in parts:
            part.play(engine, step)
        at(step)
        result = engine.step()
        windows += result.windows
        failures += result.failures
        engine._clock.now += seconds_per_step
        if step > 20 and not engine.has_work():
            return windows, failures
    raise AssertionError("the engine is never done")


def heard(part, windows):
    mine = [window for window in windows if window.track == part.name]
    return take_of(mine) if part.is_loop else audio_of(mine, part.name)


@pytest.fixture(scope="module")
def alone(tiny, folder):
    """What everybody gets on an engine of their own, by name."""
    results = {}
    for part in (Bounce(), *map(Part, range(15))):
        windows, failures = perform(Engine(tiny, loras=[folder], clock=Clock()), [part])
        assert not failures
        results[part.name] = heard(part, windows)
    return results


@pytest.mark.parametrize("seconds_per_step", [0.01, 2.0])
def test_a_bounce_beside_fifteen_live_tracks_has_the_bits_it_has_alone(tiny, folder, alone, seconds_per_step):
    """So has each of them. All differ in prompt, seed, solver, steps, LoRA, guidance, lanes; others fail, leave, never rest."""
    engine = Engine(tiny, loras=[folder], clock=Clock())
    parts = [Bounce(), *map(Part, range(15))]
    endless, guest = loop_track(tiny, "endless", lanes=LANES), Part(1)
    lanes = np.tile(NEUTRAL, (FRAMES, 1))
    lanes[:, 6] = 0.5

    def disturb(step):
        if step == 1:
            for name, audio in (("inaudible", np.full_like(music(FRAMES), np.nan)), ("untakeable", music(FRAMES))):
                track = engine.tracks[name] = stream(tiny, name, lanes=LANES)
                track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
                track.feed(1, 0, audio, lanes)
                track.finish(1, FRAMES)
            engine.tracks["untakeable"].take = lambda hop: (_ for _ in ()).throw(RuntimeError("no memory"))
            engine.tracks["endless"] = endless
            feed_clip(endless, music(FRAMES), lanes=lanes)
        if step % 6 == 2 and step < 40:  # one who comes and goes, with the ids of before
            engine.remove("guest")
            track = engine.tracks["guest"] = stream(tiny, "guest", lanes=LANES)
            track.begin(1, start=0, feed_from=0, deliver_from=0, offline=step % 4 == 0)
            track.feed(1, 0, guest.audio, lanes)
        if step == 90:
            engine.remove("endless")

    windows, failures = perform(engine, parts, seconds_per_step=seconds_per_step, at=disturb)
    assert {hop.track for hop, _ in failures} == {"inaudible", "untakeable"}
    for part in parts:
        assert np.array_equal(heard(part, windows), alone[part.name]), part.name
    assert np.array_equal(alone["bounce"], alone["live0"])
    assert len({result.tobytes() for result in alone.values()}) == 15
    assert endless._runs[1]._takes > 10
    assert max(stats.misses for stats in engine.stats().values()) > 0 or seconds_per_step < 1


def live(engine, name, *, latency=150, frames=FRAMES, offline=False, end=True, **options):
    """A stream that was fed so many frames at once."""
    track = engine.tracks[name] = stream(engine.checkpoint, name, latency=latency, **options)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=offline)
    track.feed(1, 0, music(frames), np.full((frames, 1), 0.8, dtype=np.float32))
    if end:
        track.finish(1, frames)
    return track


def begun(engine):
    """The names of the tracks whose hops get slots from now on, in order."""
    names = []
    for track in engine.tracks.values():

        def take(hop, take=track.take):
            names.append(hop.track)
            return take(hop)

        track.take = take
    return names


def test_the_earliest_deadline_goes_first(tiny, clock):
    """The one who can wait least: the smallest latency; not the one who came first."""
    engine = Engine(tiny, clock=clock, depth=1)
    for latency in (170, 150, 160):
        live(engine, f"latency {latency}", latency=latency)
    order = begun(engine)
    finish(engine)
    # A hop lasts 20 frames: the second of one is due 20 frames after its first, and 10 after the first of the next.
    assert order[:4] == ["latency 150", "latency 160", "latency 170", "latency 150"]


def test_a_deadline_follows_the_hosts_input_and_not_the_time_spent_in_line(tiny, clock):
    track = stream(tiny, latency=150)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
    for first in range(0, 200, HOP):
        track.feed(1, first, music(HOP), np.full((HOP, 1), 0.8, dtype=np.float32))
        clock.now = (first + HOP) / FRAMES_PER_SECOND
        track.tick(4, clock.now)
    deadlines = []
    for _ in range(5):
        clock.now += 7.0  # nothing comes from the host, and the ring is full for long
        track.tick(4, clock.now)
        hop = track.next_hop()
        deadlines.append(track.deadline(hop))
        track.take(hop)
    np.testing.assert_allclose(np.diff(deadlines), HOP / FRAMES_PER_SECOND)
    # The host needs a hop's audio when its own input is a latency beyond: to the second as for one that was begun at once.
    needed_to = track.geometry.input_needed_to(0)
    assert deadlines[0] == pytest.approx(needed_to / FRAMES_PER_SECOND + track.slack_s)


def test_a_deadline_counts_from_when_the_input_came_and_not_from_the_step_that_found_it(tiny):
    track = stream(tiny, latency=150)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
    for first in range(0, 200, HOP):
        played = (first + HOP) / FRAMES_PER_SECOND
        track.feed(1, first, music(HOP), np.full((HOP, 1), 0.8, dtype=np.float32), came_at=played)
    track.tick(4, 100.0)
    needed_to = track.geometry.input_needed_to(0)
    assert track.deadline(track.next_hop()) == pytest.approx(needed_to / FRAMES_PER_SECOND + track.slack_s)


def test_misses_are_counted_with_the_worst_lateness(engine, clock):
    """A step takes three seconds here: a generation of four is late for whoever cannot wait for twelve."""
    late = live(engine, "late", latency=110)
    live(engine, "patient", latency=2000)
    live(engine, "offline", offline=True)
    names = ("late", "patient", "offline")
    assert engine.stats() == {name: TrackStats() for name in names}
    engine.step()
    assert sum(stats.slots for stats in engine.stats().values()) == engine.depth
    while engine.has_work():
        clock.now += 3.0
        engine.step()
    stats = engine.stats()
    steps = late.sound.steps
    for name in names:
        assert stats[name].generations == 4
        assert stats[name].slot_ticks <= 4 * steps
        assert stats[name].slots == 0
    assert stats["late"].misses > 0
    assert 0 < stats["late"].worst_lateness_s <= clock.now
    for name in ("patient", "offline"):
        assert (stats[name].misses, stats[name].worst_lateness_s) == (0, 0.0)
    engine.remove("late")
    assert "late" not in engine.stats()


def test_hops_that_a_client_has_skipped_are_counted_and_leave_their_slots(engine):
    track = live(engine, "t", end=False)
    engine.step()
    before = {hop.hop for hop in engine._flights}
    assert 0 in before
    track.skip(1, 55)
    engine.step()
    needed = track.geometry.first_hop_for_audio(track.geometry.hop_finishing_audio(55))
    assert all(hop.hop >= needed for hop in engine._flights)
    assert engine.stats()["t"].slots == len(engine._flights)
    idle = live(engine, "idle", end=False, frames=200)
    idle.skip(1, 150)
    assert idle.skipped == engine.stats()["idle"].skipped > 0
    idle.skip(1, 2**50)  # far beyond what was fed: not a hop of all that was ever begun or could have been
    assert idle.skipped <= 200 // HOP


def test_a_bounce_takes_only_what_live_tracks_leave_and_goes_on_when_they_have_left(tiny, clock):
    engine = Engine(tiny, clock=clock)
    bounce = live(engine, "bounce", offline=True, frames=300)
    crowd = [live(engine, f"live{k}", frames=100) for k in range(5)]
    take, left = bounce.take, []

    def checked_take(hop):
        left.append([track.id for track in crowd if track.waiting()])
        return take(hop)

    bounce.take = checked_take
    order = begun(engine)
    windows = finish(engine)
    assert left
    assert not any(left)
    last_live = max(k for k, name in enumerate(order) if name != "bounce")
    assert order.count("bounce") == 16
    assert order[last_live + 1 :].count("bounce") > 10
    assert audio_of(windows, "bounce").shape[1] >= 300 * FRAME


@pytest.mark.parametrize("latencies", [(150, 150, 150, 150, 150, 150), (150, 3000, 150, 400, 3000, 200)])
def test_bounces_share_the_ring(engine, latencies):
    """Whatever their latencies: nobody's deadline matters where nobody listens."""
    tracks = [
        live(engine, f"bounce{k}", offline=True, frames=160, latency=latency) for k, latency in enumerate(latencies)
    ]
    apart = 0
    while all(track.next_hop() for track in tracks):
        assert not engine.step().failures
        done = [stats.generations for stats in engine.stats().values()]
        apart = max(apart, max(done) - min(done))
    assert min(done) > 5
    assert apart <= 2


def test_a_newcomer_shares_from_the_first_slot_on(tiny, clock):
    engine = Engine(tiny, depth=1, clock=clock)
    live(engine, "first", offline=True, frames=300)
    for _ in range(12):
        engine.step()
    live(engine, "second", offline=True, frames=300)
    order = begun(engine)
    for _ in range(18):
        engine.step()
    assert order[:4] == ["first", "second"] * 2


def test_loops_that_never_rest_and_bounces_of_the_same_length_both_get_on(engine):
    endless = np.tile(NEUTRAL, (FRAMES, 1))
    endless[:, 6] = 0.5
    loops = [loop_track(engine.checkpoint, f"loop{k}", lanes=LANES) for k in range(2)]
    commits = [loop_track(engine.checkpoint, f"commit{k}", lanes=LANES) for k in range(3)]
    for track in (*loops, *commits):
        engine.tracks[track.id] = track
        kind = "loop" if track in loops else "commit"
        feed_clip(track, music(FRAMES), kind=kind, lanes=endless if kind == "loop" else np.tile(NEUTRAL, (FRAMES, 1)))
    for _ in range(60):
        engine.step()
        if not any(track.has_epoch(1) for track in commits):
            break
    assert not any(track.has_epoch(1) for track in commits)
    assert len(engine._rings) == 1
    takes = [track._runs[1]._takes for track in loops]
    assert min(takes) >= 3
    assert max(takes) - min(takes) <= 1
    before = takes
    feed_clip(commits[0], music(FRAMES), epoch=2, kind="commit", lanes=np.tile(NEUTRAL, (FRAMES, 1)))
    for _ in range(60):
        engine.step()
    assert all(track._runs[1]._takes > takes for track, takes in zip(loops, before, strict=True))


def test_live_tracks_are_in_time_beside_a_loop_that_never_rests(engine, clock):
    """Three of them, at a pace that the ring can carry: a hop of each needs 4 of the 10 steps in which the next one comes."""
    lanes = np.tile(NEUTRAL, (FRAMES, 1))
    lanes[:, 6] = 0.5
    loop = engine.tracks["loop"] = loop_track(engine.checkpoint, lanes=LANES)
    feed_clip(loop, music(FRAMES), lanes=lanes)
    tracks = [live(engine, f"live{k}", frames=HOP, end=False, latency=120) for k in range(3)]
    for first in range(HOP, 260, HOP):
        for track in tracks:
            track.feed(1, first, music(HOP), np.full((HOP, 1), 0.8, dtype=np.float32))
        for step in range(10):
            loop.skip(1, step)  # somebody listens
            engine.step()
            clock.now += HOP / FRAMES_PER_SECOND / 10
    stats = engine.stats()
    for track in tracks:
        assert stats[track.id].generations >= 9
        assert stats[track.id].misses == 0
    assert stats["loop"].generations > 20


def test_many_clips_are_worked_on_in_turn_and_few_per_step(engine):
    for k in range(3 * WORK_AT_ONCE):
        track = engine.tracks[f"loop{k}"] = loop_track(engine.checkpoint, f"loop{k}", lanes=LANES)
        feed_clip(track, music(FRAMES), lanes=np.tile(NEUTRAL, (FRAMES, 1)))
    windows, per_step = [], []
    while engine.has_work():
        result = engine.step()
        assert not result.failures
        windows += result.windows
        per_step.append(len(result.windows))
    assert max(per_step) == WORK_AT_ONCE
    parts = {track: [w for w in windows if w.track == track] for track in engine.tracks}
    first = take_of(parts["loop0"])
    assert all(np.array_equal(take_of(part), first) for part in parts.values())


def nothing_is_left(engine):
    engine.step()
    assert not engine.has_work()
    assert not engine.progress()
    assert not engine._flights
    assert not engine._queues
    assert not len(engine._scheduler)
    assert not any(ring.busy for ring in engine._rings.values())
    return True


@pytest.mark.parametrize("leave", ["remove", "drop", "skip", "end", "fail"])
def test_nothing_is_left_of_those_who_have_gone(engine, leave):
    tracks = [live(engine, f"t{k}", offline=k == 1, end=leave == "end", frames=100) for k in range(3)]
    for _ in range(3):
        engine.step()
    assert engine._flights
    assert len(engine._scheduler)
    for track in tracks:
        if leave == "drop" or (leave == "skip" and track is tracks[1]):  # a bounce skips nothing
            engine.drop(track.id, 1)
        elif leave == "skip":
            track.skip(1, 1000)
        elif leave == "fail":
            track.complete = track.take = lambda *_: (_ for _ in ()).throw(RuntimeError("no memory"))
    if leave == "remove":
        for track in tracks:
            engine.remove(track.id)
    while engine.has_work():
        engine.step()
    assert nothing_is_left(engine)
    assert set(engine.stats()) == set(engine.tracks)
    for track in tracks:
        engine.remove(track.id)
    assert not engine._stats
    assert not engine._generations


def test_a_track_that_was_taken_away_while_its_hops_fly_leaves_the_others_alone(engine):
    """Whoever owns the table of tracks may forget to tell the engine."""
    live(engine, "gone", frames=100)
    live(engine, "here", frames=100)
    engine.step()
    del engine.tracks["gone"]
    assert {p.hop.track for p in engine.progress()} == {"here"}
    windows = finish(engine)
    assert {window.track for window in windows} == {"here"}
    assert nothing_is_left(engine)
