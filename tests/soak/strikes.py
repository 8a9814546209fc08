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
POLL_S = 0.005
MOST_S = 1e6
"""In a report, for ever."""
TIMED = ("kill", "kill worker", "stop", "reset", "cut", "half-close up", "half-close down", "stall")
"""Faults after which the way back is timed: under the others everything passes, or the track leaves meanwhile."""
BREAKING = ("reset", "cut", "half-close up", "half-close down")
"""Faults that no connection outlives: what still comes by one that was open is no sign of service."""
CONTROL, AUDIO = 0, 1
"""The proxy's ports."""
FLOW_S = 2.0
"""Audio came this shortly before a fault: more is due after it."""


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
        at = time.monotonic()
        is_served = self._service(fault, at) if fault.kind in TIMED else None
        done = Strike(fault.kind, at - self._began, self._run.progress, min(fault.pause_s, MOST_S), fault.port)
        stage = self._run.stage
        self._begin(fault)
        if fault.pause_s == FOR_GOOD or fault.kind == "kill client":
            return done
        time.sleep(fault.pause_s)
        back = self._end(fault)
        done.over_s = back - self._began
        if is_served:
            is_hello = fault.kind.startswith("kill")
            done.reconnect_s = self._time_reconnection(back, is_served, stage, is_hello=is_hello)
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
            "kill worker": lambda: self._fleet.kill_engine(self._engine_of(fault)),
            "stop worker": lambda: self._fleet.stop_engine(self._engine_of(fault)),
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
        elif fault.kind == "stop worker":
            self._fleet.wake_engine()
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

    def _engine_of(self, fault: Fault) -> int:
        """The one that is named, or the track's; before there is a track, the first."""
        number = self._fleet.engine_of_track() if fault.engine is None else fault.engine
        return number or 0

    def _service(self, fault: Fault, at: float) -> Callable[[float], bool] | None:
        """What tells that the track is served again after a return, for a fault that is about to strike; None where nothing does.

        Where the server must have forgotten the track, it is the answer to its hello. Else it is what the host lives on, by a
        connection that the fault has left whole, or a new one: audio, if it came until now; or, for a loop, which is sent nothing
        while it rests, what answers its heartbeats. A host without audio has none to miss: it starts, captures, or has it all.
        """
        if not self._has_met():
            return None
        if fault.kind.startswith("kill"):
            life, greetings = self._server.lives, self._server.greeted()
            if not self._concerns_track(fault):
                return None
            return lambda _: self._server.greeted() > (greetings if self._server.lives == life else 0)
        port = CONTROL if self._run.is_loop else AUDIO
        is_struck = fault.port in (None, port)
        if self._run.is_loop and not is_struck:
            return None
        if not self._run.is_loop and not (self._run.is_fed and self._proxy.last_mark_at(AUDIO) > at - FLOW_S):
            return None
        opened_after = at if is_struck and fault.kind in BREAKING else 0.0
        return lambda back: self._proxy.last_mark_at(port, opened_after) > back

    def _time_reconnection(
        self, back: float, is_served: Callable[[float], bool], stage: int, *, is_hello: bool
    ) -> float | None:
        """From the return to the first sign of service, and on to a block after it of a plugin that says it is connected.

        Another sign is the answer to a hello, of a plugin that has given the engine up; is_hello: it is the one. Then a bounce
        waits for its block until all that was in flight has been made again, which is no reconnecting. None if the host needs no
        more of the engine: it ends, or its next pass begins.
        """
        life, greetings = self._server.lives, self._server.greeted()
        while self._run.is_alive and self._run.stage == stage:
            now, is_served_now = time.monotonic(), is_served(back)
            is_greeted = self._server.greeted() > (greetings if self._server.lives == life else 0)
            if is_served_now or is_greeted:
                needs_block = self._run.is_live or not (is_hello or is_greeted)
                return (self._block_after(now) if needs_block else now) - back
            if now > back + GIVE_UP_S:
                raise ViolationError(f"no service within {GIVE_UP_S:.0f} s of the return")
            time.sleep(POLL_S)
        return None

    def _block_after(self, served: float) -> float:
        """The time of the first block of a connected plugin after a time; that time itself if the host ends."""
        while self._run.is_alive:
            if (seen := self._run.watch.first(served)) is not None:
                return seen
            if time.monotonic() > served + GIVE_UP_S:
                return time.monotonic()
            time.sleep(POLL_S)
        return served


def check_reconnection(done: Strike, limit_s: float) -> None:
    """Raises ViolationError."""
    if done.reconnect_s is not None and done.reconnect_s > limit_s + OBSERVATION_S:
        raise ViolationError(f"reconnected {done.reconnect_s:.2f} s after the return")
