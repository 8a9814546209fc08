# SPDX-License-Identifier: Apache-2.0
"""What is going to happen: scenarios with their faults, as a pure function of a seed and a number."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.soak.connection import Direction, Weather

PHASES = ("kills", "clients", "network", "workers")
BOUNCES = ("pedalboard", "dawdreamer")
"""Hosts that bounce a stream; `commit` bounces a loop's clip in pedalboard, `playing` plays in minihost in real time, and
`looping` plays a loop's takes there."""
LIVE = ("playing", "looping")
WAYS = (*BOUNCES, *BOUNCES, *BOUNCES, "commit", "commit", "playing", "looping")
NETWORK_KINDS = ("reset", "cut", "half-close up", "half-close down", "stall", "delay", "throttle")
KINDS = {
    "kills": ("kill",) * 5 + ("stop",),
    "clients": ("kill client",),
    "network": NETWORK_KINDS,
    "workers": ("kill worker",) * 7 + ("stop worker",) * 2 + ("kill",),
}
"""By phase. Of workers: an engine behind a gateway, and now and then the gateway."""
ENGINE_KINDS = ("kill worker", "stop worker")
ANY_ENGINE = (None, None, 0, 1)
MOST_FAULTS = {"pedalboard": 8, "dawdreamer": 8, "commit": 6, "playing": 3, "looping": 3}
LONGEST_PAUSE_S = 3.0
LONG_PAUSES_S = (3.0, 16.0)
"""Some: the plugin calls the engine lost after 3 s of silence, and tries again ever more rarely, most rarely after 14 s."""
LONG_PAUSE_SHARE = 0.2
TIMEOUT_S, SHORT_TIMEOUT_S, FLEET_TIMEOUT_S = 30.0, 3.0, 180.0
"""DEMON_TIMEOUT_S: more than the longest pause and the way back; where the engine does not come back; and where a gateway
starts engines, which import torch first."""
FOR_GOOD = float("inf")


@dataclass(frozen=True)
class Fault:
    """One fault and when it strikes.

    at: share of the host's blocks that have been processed; then `delay_s` more. At 0 the host has just been started.
    pause_s: how long it lasts; FOR_GOOD until the host has ended.
    port: of the proxy, or None for all; only for faults of the network.
    engine: of several behind a gateway, the one that is struck; None for the one that has the track.
    """

    kind: str
    at: float
    delay_s: float
    pause_s: float = 0.0
    port: int | None = None
    weather: Weather | None = None
    engine: int | None = None


@dataclass(frozen=True)
class Plan:
    """A scenario: what the host does, and the faults in the order in which they strike."""

    phase: str
    number: int
    way: str
    steps: int
    block: int
    timeout_s: float
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return f"{self.phase}:{self.number}"

    @property
    def may_end_dry(self) -> bool:
        """Whether the engine is away for longer than a bounce waits."""
        return any(fault.pause_s >= self.timeout_s for fault in self.faults)


def make_plan(seed: int, phase: str, number: int, *, ports: int = 1) -> Plan:
    """Scenario `number` of a phase. ports: how many the engine listens on."""
    rng = random.Random(f"{seed}:{phase}:{number}")
    way = rng.choice(WAYS)
    is_for_good = phase in ("kills", "network") and way in BOUNCES and rng.random() < 0.1
    count = 1 if phase == "clients" or is_for_good else rng.randint(1, MOST_FAULTS[way])
    places = sorted(_place(rng, way) for _ in range(count))
    kinds = KINDS[phase]
    faults = [_fault(rng, rng.choice(kinds), place, ports) for place in places]
    if is_for_good:
        kind = "kill" if phase == "kills" else "cut"
        faults = [Fault(kind, rng.uniform(0.2, 0.9), 0.0, FOR_GOOD)]
    return Plan(
        phase=phase,
        number=number,
        way=way,
        steps=rng.choice((4, 12, 30)),
        block=rng.choice((480, 512)),
        timeout_s=SHORT_TIMEOUT_S if is_for_good else FLEET_TIMEOUT_S if phase == "workers" else TIMEOUT_S,
        faults=tuple(faults),
    )


def _place(rng: random.Random, way: str) -> tuple[float, float]:
    """`at` and `delay_s`: often while the host starts and says hello, else anywhere."""
    if way in LIVE:
        return rng.uniform(0.02 if way == "looping" else 0.1, 0.7), 0.0  # a loop's capture ends at 0.08
    if rng.random() < 0.25:
        return 0.0, rng.uniform(0.0, 2.0)
    return rng.uniform(0.05, 0.95), rng.uniform(0.0, 1.5 if way == "commit" else 0.3)


def _fault(rng: random.Random, kind: str, place: tuple[float, float], ports: int) -> Fault:
    is_long = rng.random() < LONG_PAUSE_SHARE
    pause = rng.uniform(*LONG_PAUSES_S) if is_long else rng.uniform(0.0, LONGEST_PAUSE_S)
    port = rng.choice((None, *range(ports))) if kind in NETWORK_KINDS and ports > 1 else None
    weather = None
    if kind == "stall":
        weather = Weather(is_stalled=True)
    elif kind == "delay":
        weather = Weather(delay_s=rng.uniform(0.02, 0.3), jitter_s=rng.uniform(0.0, 0.2))
    elif kind == "throttle":
        weather = Weather(bytes_per_s=rng.uniform(30_000, 500_000))
    engine = rng.choice(ANY_ENGINE) if kind in ENGINE_KINDS else None
    is_instant = kind in ("reset", "half-close up", "half-close down", "kill client", "kill worker")
    return Fault(kind, *place, 0.0 if is_instant else pause, port, weather, engine)


def direction_of(kind: str) -> Direction:
    """Of a half-close."""
    return Direction.UP if kind.endswith("up") else Direction.DOWN
