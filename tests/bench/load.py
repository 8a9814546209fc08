# SPDX-License-Identifier: Apache-2.0
"""Many tracks over one ring: what they get together, who is late, what each costs in memory, and what is spent beside the model.

With the small checkpoint of the tests. Throughput is taken where every track always has a hop to begin; lateness where
hosts feed at a pace that this machine can carry: in real time, or, where that is too much for it, in a time that passes more
slowly, by which the engine's clock goes too.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from engine_server.model.checkpoint import Checkpoint, load_checkpoint
from engine_server.tracks.engine import Engine
from engine_server.tracks.track import Track
from engine_server.tracks.windows import AudioWindow, HopId
from shared_protocol.messages import make_config
from shared_protocol.timebase import FRAMES_PER_SECOND, samples_per_frame
from tests.bench.measure import Row, Target, compared
from tests.bench.memory import status_mib
from tests.bench.models import Effort

SMALL = Path(__file__).parents[1] / "checkpoint"
RATE = 48_000
LATENCY = 150
"""Frames that a host compensates: the plugin's default, six seconds."""
FED_AT_ONCE = 64
GENERATIONS = 4
"""Of one measurement: what the ring holds, or a multiple, so that every one begins and ends at the same place of the cycle."""
ROUNDS = 12
UTILISATION = 0.5
"""Share of the machine's measured throughput that live hosts ask for."""
HOPS_IN_TIME = 32
"""Of all live tracks together, while lateness is measured."""


class Clock:
    """Seconds of which `pace` pass in a second of the wall clock."""

    def __init__(self, pace: float = 1.0) -> None:
        self._pace, self._began = pace, time.monotonic()

    def __call__(self) -> float:
        """The time since it was made."""
        return self._pace * (time.monotonic() - self._began)

    def sleep_until(self, seconds: float) -> None:
        """Wait for a time."""
        time.sleep(max(0.0, (seconds - self()) / self._pace))


class Crowd:
    """Live tracks, and a bounce if there is one, on an engine of their own."""

    def __init__(
        self, checkpoint: Checkpoint, live: int, *, bounce: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine = Engine(checkpoint, clock=clock)
        self.live = [self._join(f"live{k}", k, offline=False) for k in range(live)]
        self.bounce = [self._join("bounce", live, offline=True)] if bounce else []
        frames = samples_per_frame(RATE) * FED_AT_ONCE
        self._audio = (0.1 * np.random.default_rng(0).standard_normal((2, frames))).astype(np.float32)

    def feed(self, track: Track, frames: int) -> None:
        """So many frames more, of noise."""
        lanes = np.full((frames, 1), 0.8, dtype=np.float32)
        track.feed(1, track.book.positions[1], self._audio[:, : frames * samples_per_frame(RATE)], lanes)

    def keep_fed(self, tracks: list[Track]) -> None:
        """See that every one of these tracks has a hop to begin."""
        for track in tracks:
            while track.next_hop() is None:
                self.feed(track, FED_AT_ONCE)

    def generate(self, count: int) -> None:
        """Step until so many hops more are finished, while every track has one to begin."""
        finished = 0
        while finished < count:
            self.keep_fed([*self.live, *self.bounce])
            finished += len(self.step())

    def settle(self) -> None:
        """Step until every live track has finished a hop: its whole window is encoded then, later ones need little of it."""
        waits = {track.id for track in self.live}
        while waits:
            self.keep_fed([*self.live, *self.bounce])
            waits -= {window.track for window in self.step()}

    def step(self) -> list[AudioWindow]:
        """A step of the engine. Raises what a track failed with."""
        result = self.engine.step()
        for _, error in result.failures:
            raise error
        return result.windows

    def _join(self, name: str, seed: int, *, offline: bool) -> Track:
        config = make_config(f"instrument {seed}", seed)
        track = Track(name, self.engine.checkpoint, rate=RATE, latency=LATENCY, lanes=["denoise"], config=config)
        track.begin(1, start=0, feed_from=0, deliver_from=0, offline=offline)
        self.engine.tracks[name] = track
        return track


def rows(effort: Effort) -> Iterator[Row]:
    """Against one track that keeps the ring full, in the same rounds."""
    checkpoint = load_checkpoint(str(SMALL), device="cpu")
    counts = (1, 4) if effort.quick else (1, 4, 16, 64)
    crowds = {(live, bounce): Crowd(checkpoint, live, bounce=bounce) for live in counts for bounce in (False, True)}
    for crowd in crowds.values():
        crowd.settle()
    wall, cpu = _in_turn(
        {name: partial(crowd.generate, GENERATIONS) for name, crowd in crowds.items()}, effort.rounds(ROUNDS)
    )
    per_second = GENERATIONS / statistics.median(wall[1, False])
    for name in list(crowds)[1:]:
        yield _throughput(name, wall, "")
    for name in list(crowds)[1:]:
        yield _throughput(name, cpu, ", per second of processor time")
    for name in crowds:
        yield from _lateness(checkpoint, name, per_second, effort)
    yield from _beside_the_model({name: crowds[name] for name in crowds if not name[1]}, effort)
    yield from _memory(counts)


Name = tuple[int, bool]


def _in_words(name: Name) -> str:
    live, bounce = name
    return f"{live} live track{'s' if live > 1 else ''}{' and a bounce' if bounce else ''}"


def _in_turn(
    actions: Mapping[Name, Callable[[], None]], rounds: int
) -> tuple[dict[Name, list[float]], dict[Name, list[float]]]:
    """Seconds of every action in every round, by the wall's clock and by the processor's; every round in another order."""
    wall: dict[Name, list[float]] = {name: [] for name in actions}
    cpu: dict[Name, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned if number % 2 else turned[::-1]:
            began, used = time.perf_counter(), time.process_time()
            actions[name]()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    return wall, cpu


def _throughput(name: Name, seconds: Mapping[Name, list[float]], per: str) -> Row:
    return compared(
        f"generations of {_in_words(name)}{per}",
        seconds[name],
        "1 live track, ring full",
        seconds[1, False],
        unit="generations/s",
        value=lambda taken: GENERATIONS / taken,
        target=Target("ratio", 0.95),
    )


def _lateness(checkpoint: Checkpoint, name: Name, per_second: float, effort: Effort) -> Iterator[Row]:
    """Hosts that feed a hop each in turn, at a pace that asks for a part of the machine's throughput."""
    live, bounce = name
    hop = checkpoint.settings.geometry.hop
    pace = min(1.0, UTILISATION * per_second * hop / FRAMES_PER_SECOND / live)
    hops = max(HOPS_IN_TIME // live, 2) if not effort.quick else 2
    hosts = Hosts(checkpoint, live, bounce=bounce, pace=pace)
    took = hosts.play(hops)
    slack = hosts.crowd.live[0].slack_s
    counted = sum(hosts.crowd.engine.stats()[track.id].misses for track in hosts.crowd.live)
    late = sum(each > slack for each in took)
    p50, p99 = (float(np.percentile(took, q)) for q in (50, 99))
    yield Row(
        f"{_in_words(name)}: hop from input to window, p99",
        1000 * p99,
        "time until the host needs it",
        1000 * slack,
        "ms",
        target=Target("ratio", 1.0),
        note=f"p50 {1000 * p50:.0f} ms, {late} of {len(took)} hops late (by the engine's count {counted}), "
        f"at {pace:.2g} of real time",
    )


class Hosts:
    """Live hosts that begin evenly spread over a hop, and feed a frame at a time; a bounce beside them is always fed."""

    def __init__(self, checkpoint: Checkpoint, live: int, *, bounce: bool, pace: float) -> None:
        self.clock = Clock(pace)
        self.crowd = Crowd(checkpoint, live, bounce=bounce, clock=self.clock)
        self._hop = self.crowd.live[0].geometry.hop
        self._ready_at: dict[HopId, float] = {}

    def play(self, hops: int) -> list[float]:
        """Until every host has had so many hops; seconds of the clock that each took, the first (a whole window) included."""
        crowd, clock = self.crowd, self.clock
        took: list[float] = []
        while any(self._had(track) < hops for track in crowd.live):
            self._feed()
            crowd.keep_fed(crowd.bounce)
            if not crowd.engine.has_work():
                clock.sleep_until(clock() + 0.25 / FRAMES_PER_SECOND)
                continue
            windows, now = crowd.step(), clock()
            for window in windows:
                track = crowd.engine.tracks[window.track]
                hop = HopId(window.track, 1, track.geometry.hop_finishing_audio(window.frame))
                if hop in self._ready_at:
                    took.append(now - self._ready_at.pop(hop))
        return took

    def _feed(self) -> None:
        """What has been played by now; a hop's input is ready when its last frame was played, whenever it is taken in."""
        now = self.clock()
        for k, track in enumerate(self.crowd.live):
            offset = k * self._hop / len(self.crowd.live) / FRAMES_PER_SECOND
            played, fed = int((now - offset) * FRAMES_PER_SECOND), track.book.positions[1]
            while fed < played:
                frames = min(played - fed, FED_AT_ONCE)
                self.crowd.feed(track, frames)
                fed += frames
            hop = track.next_hop()
            while (
                hop and hop not in self._ready_at and track.geometry.input_needed_to(hop.hop) <= track.book.positions[1]
            ):
                self._ready_at[hop] = offset + track.geometry.input_needed_to(hop.hop) / FRAMES_PER_SECOND
                hop = HopId(hop.track, hop.epoch, hop.hop + 1)

    def _had(self, track: Track) -> int:
        return self.crowd.engine.stats()[track.id].generations


def _beside_the_model(crowds: Mapping[Name, Crowd], effort: Effort) -> Iterator[Row]:
    """Time of steps outside the model: forward, encoding and decoding. What is left is planning, the sampler and stitching."""
    outside: dict[Name, list[float]] = {name: [] for name in crowds}
    whole: dict[Name, list[float]] = {name: [] for name in crowds}
    for _ in range(effort.rounds(ROUNDS // 2)):
        for name, crowd in crowds.items():
            seconds, inside = _split(crowd)
            whole[name].append(seconds)
            outside[name].append(seconds - inside)
    for name in crowds:
        share = statistics.median(a / b for a, b in zip(outside[name], whole[name], strict=True))
        yield compared(
            f"{_in_words(name)}: outside the model, per generation",
            outside[name],
            "1 live track",
            outside[1, False],
            value=lambda seconds: 1000 * seconds / GENERATIONS,
            note=f"{100 * share:.1f} % of all",
        )


def _split(crowd: Crowd) -> tuple[float, float]:
    """Seconds of the processor that generations take, and of these in the decoder and the codec."""
    checkpoint, inside = crowd.engine.checkpoint, 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal inside
            began = time.process_time()
            result = function(*arguments, **more)
            inside += time.process_time() - began
            return result

        return call

    model = ((type(checkpoint.decoder), ("__call__", "encode")), (type(checkpoint.codec), ("posterior", "decode")))
    with ExitStack() as patches:
        for kind, names in model:
            for name in names:
                patches.enter_context(patch.object(kind, name, timed(getattr(kind, name))))
        began = time.process_time()
        crowd.generate(GENERATIONS)
        return time.process_time() - began, inside


def _memory(counts: tuple[int, ...]) -> Iterator[Row]:
    """Each in a process of its own: what a live track adds to it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        for live in counts:
            added = fresh.submit(memory_of, live).result()
            yield Row(f"memory of a live track, of {live}", added / live, "resident in all", added, "MiB")


def memory_of(live: int) -> float:
    """MiB that become resident while so many live tracks join and get their first hops, beyond an engine that has had one."""
    checkpoint = load_checkpoint(str(SMALL), device="cpu")
    Crowd(checkpoint, 1).settle()
    before = status_mib("VmRSS")
    Crowd(checkpoint, live).settle()
    return status_mib("VmRSS") - before
