# SPDX-License-Identifier: Apache-2.0
"""Faults as they happen: they strike a server, a proxy or a host, and the way back is timed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tests.soak.fleets import FleetServer
from tests.soak.host_runs import HostRun
from tests.soak.plans import FOR_GOOD, Fault, direction_of
from tests.soak.proxy import Proxy
from tests.soak.servers import Server
from tests.soak.verdicts import ViolationError

RECONNECT_LIMIT_S = 2.0
OBSERVATION_S = 0.1
"""So late the end of a reconnection may be seen: logs are polled, by threads that share two cores with all else."""
GIVE_UP_S = 30.0
SILENCE_S = 3.0
"""Until a client calls an engine lost (SPEC.md, section 5): the port of a killed engine tells it nothing while another engine
serves already."""
POLL_S = 0.005
MOST_S = 1e6
"""In a report, for ever."""
TIMED = ("kill", "kill worker", "stop", "reset", "cut", "half-close up", "half-close down", "stall")
"""Faults after which the way back is timed: the others break no connection."""


@dataclass
class Strike:
    """A fault that has struck, with times in seconds; of `at_s`, since the host's start."""

    kind: str
    at_s: float
    progress: float
    pause_s: float
    port: int | None
    over_s: float = 0.0
    """When server or network was back, since the host's start."""
    reconnect_s: float | None = None
    """From the return of server or network to an engine that serves the track again; None where that cannot be said:
    there was no connection yet, or the host ended meanwhile."""

    def as_json(self) -> dict:
        return asdict(self)


class Striker:
    """Strikes one host's run."""

    def __init__(self, server: Server, proxy: Proxy, run: HostRun) -> None:
        self._server, self._proxy, self._run = server, proxy, run
        self._began = time.monotonic()
        self._known_life, self._known_greetings = server.lives, server.greeted()

    def strike(self, fault: Fault) -> Strike:
        """Let it happen, and return when it is over, and the track is served again where that can be seen.

        Raises ViolationError when the way back takes too long.
        """
        life, greetings = self._server.lives, self._server.greeted()
        had_track = self._has_met() and self._concerns_track(fault)
        struck_at = time.monotonic() - self._began
        done = Strike(fault.kind, struck_at, self._run.progress, min(fault.pause_s, MOST_S), fault.port)
        self._begin(fault)
        if fault.pause_s == FOR_GOOD or fault.kind == "kill client":
            return done
        time.sleep(fault.pause_s)
        back = self._end(fault)
        done.over_s = back - self._began
        if had_track and fault.kind in TIMED:
            answered = greetings if self._server.lives == life else 0
            done.reconnect_s = self._time_reconnection(back, answered if fault.kind.startswith("kill") else None)
        return done

    def calm_s(self, strikes: Sequence[Strike]) -> float:
        """For how long nothing has struck by now."""
        return time.monotonic() - self._began - max((strike.over_s for strike in strikes), default=0.0)

    def restore(self) -> None:
        """After the host has ended: the server serves, the network is well."""
        self._proxy.clear()
        if not self._server.is_alive():
            self._server.start()

    def _has_met(self) -> bool:
        """Whether the host's track was greeted by this life of the server."""
        before = self._known_greetings if self._server.lives == self._known_life else 0
        return self._server.greeted() > before

    def _begin(self, fault: Fault) -> None:
        proxy, port = self._proxy, fault.port
        actions: dict[str, Callable[[], None]] = {
            "kill": self._server.kill,
            "kill worker": lambda: self._kill_worker(fault),
            "stop": lambda: self._server.signal(signal.SIGSTOP),
            "kill client": self._run.process.kill,
            "reset": lambda: proxy.reset(port),
            "cut": lambda: proxy.cut(port),
            "half-close up": lambda: proxy.half_close(direction_of(fault.kind), port),
            "half-close down": lambda: proxy.half_close(direction_of(fault.kind), port),
        }
        if fault.weather is not None:
            proxy.set_weather(fault.weather, port)
        else:
            actions[fault.kind]()

    def _end(self, fault: Fault) -> float:
        """Undo it; the time of the return."""
        if fault.kind == "kill":
            self._server.start()
        elif fault.kind == "kill worker":
            self._fleet.wait_for_engines(1)
        elif fault.kind == "stop":
            self._server.signal(signal.SIGCONT)
        elif fault.kind in ("cut", "stall", "delay", "throttle"):
            self._proxy.clear()
        return time.monotonic()

    @property
    def _fleet(self) -> FleetServer:
        assert isinstance(self._server, FleetServer)
        return self._server

    def _concerns_track(self, fault: Fault) -> bool:
        """Whether the engine that is to be killed has the track."""
        return fault.kind != "kill worker" or fault.engine in (None, self._fleet.engine_of_track())

    def _kill_worker(self, fault: Fault) -> None:
        """The one that is named, or the track's; before there is a track, the first."""
        number = self._fleet.engine_of_track() if fault.engine is None else fault.engine
        self._fleet.kill_engine(number or 0)

    def _time_reconnection(self, back: float, greetings: int | None) -> float | None:
        """From the return to the first sign of service: the answer to a hello where the server must have forgotten the
        track (`greetings` were answered before), else bytes of the engine; and, while the host plays, a block of a plugin
        that says it is connected, written after that."""
        while self._run.is_alive:
            now = time.monotonic()
            served = self._proxy.last_down_at > back if greetings is None else self._server.greeted() > greetings
            if served:
                return self._until_connected(now) - back
            if now > back + GIVE_UP_S:
                raise ViolationError(f"no service within {GIVE_UP_S:.0f} s of the return")
            time.sleep(POLL_S)
        return None

    def _until_connected(self, served: float) -> float:
        """The time of the first block of a connected plugin; of `served` where no blocks pass: a bounce that waits."""
        if not self._run.is_live:
            return served
        while self._run.is_alive and time.monotonic() < served + GIVE_UP_S:
            if (seen := self._run.watch.first(served)) is not None:
                return seen
            time.sleep(POLL_S)
        return time.monotonic()


def check_reconnection(done: Strike, limit_s: float) -> None:
    """Raises ViolationError."""
    unheard_s = SILENCE_S if done.kind == "kill worker" else 0.0
    if done.reconnect_s is not None and done.reconnect_s > unheard_s + limit_s + OBSERVATION_S:
        raise ViolationError(f"reconnected {done.reconnect_s:.2f} s after the return")
