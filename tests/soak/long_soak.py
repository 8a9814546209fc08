# SPDX-License-Identifier: Apache-2.0
"""The long soak: tracks come and go for minutes or an hour while the server's memory, files and threads are sampled."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from tests.soak.guests import ALL, Visit, bounce, visit
from tests.soak.host_runs import start_host
from tests.soak.leaks import check_forgotten, slope
from tests.soak.music import Music
from tests.soak.plans import Plan
from tests.soak.scenarios import FRESH_PIECES, budget_of
from tests.soak.servers import Held, Server
from tests.soak.verdicts import ViolationError, judge_bounce

GUESTS = 4
"""At once; visits last from a moment to some seconds."""
PAUSE_S = 0.5
PLUGIN_EVERY_S = 60.0
"""A bounce through the plugin in a host, now and then."""
SAMPLES = 400
"""Aimed at; a sample costs some milliseconds."""
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 0.5, 5.0
WARM_UP_SHARE = 0.25
"""Of the time: pools, caches and the allocator's arenas take shape."""
MOST_GROWTH_KIB = 16 * 1024
"""Over the run, by the trend after the warm-up."""
MOST_GROWTH_PER_MIN_KIB = 100.0
"""In runs long enough to tell it from the allocator's breathing."""
LONG_RUN_MIN = 20.0


@dataclass
class Sample:
    """What the server held at a time, in seconds from the start."""

    at_s: float
    held: Held


@dataclass
class SoakReport:
    """What the long soak brought."""

    minutes: float
    visits: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    slope_kib_per_min: float = 0.0
    forgotten_s: float = 0.0
    afterwards: Held | None = None
    """Once every track is forgotten."""

    @property
    def steady(self) -> list[Sample]:
        """After the warm-up."""
        return [sample for sample in self.samples if sample.at_s >= WARM_UP_SHARE * self.samples[-1].at_s]

    def as_json(self) -> dict:
        return asdict(self)

    def table(self) -> Table:
        table = Table(
            "what", "measured", title=f"{self.minutes:.1f} min of tracks that come and go", title_justify="left"
        )
        steady = [sample.held for sample in self.steady]
        table.add_row("visits", ", ".join(f"{count} {kind}" for kind, count in sorted(self.visits.items())))
        if steady:
            table.add_row("memory, after the warm-up", f"{_range([one.rss_kib / 1024 for one in steady])} MiB")
            table.add_row("its slope (Theil-Sen)", f"{self.slope_kib_per_min:+.1f} KiB/min")
            for what in ("files", "threads", "connections"):
                table.add_row(f"{what}, first / second half", " / ".join(map(_range, _halves(steady, what))))
        if self.afterwards:
            after = self.afterwards
            table.add_row(
                "once every track is forgotten",
                f"{after.rss_kib / 1024:.0f} MiB, {after.files} files, {after.threads} threads, "
                f"{after.connections} connections",
            )
        table.add_row("violations", str(len(self.violations)))
        return table


def run_long_soak(
    server: Server, music: Music, folder: Path, *, minutes: float, seed: int, kinds: Sequence[Visit] = ALL
) -> SoakReport:
    """Guests for so many minutes, then silence until the server has forgotten them. The server must serve."""
    report = SoakReport(minutes)
    music.reference(FRESH_PIECES, _plan(seed).steps)  # not in the time that is measured
    visit(server.endpoint, music, random.Random(seed), [bounce])  # the first tick ever starts torch's threads
    before = _quiet(server)
    began = time.monotonic()
    until = began + 60.0 * minutes
    lock = threading.Lock()

    def keep_coming(number: int) -> None:
        rng = random.Random(f"{seed}:guest:{number}")
        while time.monotonic() < until:
            _attempt(report, lock, lambda: visit(server.endpoint, music, rng, kinds))
            time.sleep(min(rng.expovariate(1.0 / PAUSE_S), 5.0))

    def keep_bouncing() -> None:
        number = 0
        while time.monotonic() < until:
            bounce_once = _plugin_bounce(server, music, folder / f"plugin-{number}", seed + number)
            _attempt(report, lock, bounce_once)
            number += 1
            _sleep(PLUGIN_EVERY_S, until)

    threads = [threading.Thread(target=keep_coming, args=(number,), daemon=True) for number in range(GUESTS)]
    threads.append(threading.Thread(target=keep_bouncing, daemon=True))
    for thread in threads:
        thread.start()
    interval = min(max(60.0 * minutes / SAMPLES, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)
    while time.monotonic() < until and server.is_alive():
        report.samples.append(Sample(time.monotonic() - began, server.held()))
        _sleep(interval, until)
    for thread in threads:
        thread.join(budget_of(_plan(seed)))
    _look_back(report, server, before)
    return report


def _look_back(report: SoakReport, server: Server, before: Held) -> None:
    try:
        if not server.is_alive():
            raise ViolationError("the server has ended by itself")
        report.forgotten_s = check_forgotten(server)
        report.afterwards = _quiet(server)
        check_steady(report, before)
    except ViolationError as violation:
        report.violations.append(str(violation))
    report.violations += [f"the engine complains: {line}" for line in server.complaints()]


def check_steady(report: SoakReport, before: Held) -> None:
    """Raises ViolationError when memory has a slope, or when files, threads or connections stay behind."""
    steady = report.steady
    times, memory = [one.at_s / 60 for one in steady], [one.held.rss_kib for one in steady]
    report.slope_kib_per_min = slope(times, memory)
    growth = report.slope_kib_per_min * (times[-1] - times[0])
    after = report.afterwards
    assert after is not None
    for what in ("files", "threads", "processes", "connections"):
        if getattr(after, what) > getattr(before, what):
            raise ViolationError(f"{what}: {getattr(before, what)} before, {getattr(after, what)} afterwards")
    is_long = report.minutes >= LONG_RUN_MIN
    if growth > MOST_GROWTH_KIB or (is_long and report.slope_kib_per_min > MOST_GROWTH_PER_MIN_KIB):
        raise ViolationError(f"memory grows by {report.slope_kib_per_min:.0f} KiB/min")


def _attempt(report: SoakReport, lock: threading.Lock, part: Callable[[], str]) -> None:
    try:
        kind = part()
        with lock:
            report.visits[kind] = report.visits.get(kind, 0) + 1
    except (ViolationError, TimeoutError, RuntimeError, OSError) as error:
        with lock:
            report.violations.append(f"{type(error).__name__}: {error}")


def _plan(seed: int) -> Plan:
    return Plan("soak", seed, "dawdreamer", steps=4, block=512, timeout_s=20.0, faults=())


def _plugin_bounce(server: Server, music: Music, folder: Path, seed: int) -> Callable[[], str]:
    """A bounce in dawdreamer, to the bit."""

    def run() -> str:
        plan = _plan(seed)
        with start_host(plan, server.endpoint, folder, pieces=FRESH_PIECES) as host:
            if not host.wait(time.monotonic() + budget_of(plan)):
                raise ViolationError("a hang of the plugin's bounce")
            host.close()
            audio, expected = host.results()["result"], music.reference(FRESH_PIECES, plan.steps)
            judge_bounce(audio, expected, music.source(FRESH_PIECES), may_end_dry=False, receipts=())
        return "plugin"

    return run


def _quiet(server: Server) -> Held:
    """What it holds once no connection is left, or after some seconds."""
    deadline = time.monotonic() + 10.0
    held = server.held()
    while held.connections and time.monotonic() < deadline:
        time.sleep(0.1)
        held = server.held()
    time.sleep(1.0)
    return server.held()


def _sleep(seconds: float, until: float) -> None:
    time.sleep(max(0.0, min(seconds, until - time.monotonic())))


def _halves(held: Sequence[Held], what: str) -> tuple[list[float], list[float]]:
    values = [float(getattr(one, what)) for one in held]
    middle = max(1, len(values) // 2)
    return values[:middle], values[middle:] or values


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f}..{max(values):.0f}"
