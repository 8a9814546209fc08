# SPDX-License-Identifier: Apache-2.0
"""A gateway with engines in processes of their own, any of which may be killed: `demon serve --engines 2`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from engine_server.serve.endpoint import engine_endpoint
from tests.soak.ports import free_port_pair
from tests.soak.servers import GONE, GREETED, Held, Server
from tests.soak.starter import Starter

ENGINES = 2
POLL_S = 0.02
RESTART_LIMIT_S = 180.0
"""Within which the fleet must have replaced an engine: it imports torch, on cores that others use too."""
SENT = re.compile(r"track ([0-9a-f]+) goes to \S+:(\d+)$")
KILLED = re.compile(r"^killed: the engine at port (\d+)$")
"""Written into the log by whoever kills, so that it says which tracks went with the engine."""
REPLACED = re.compile(
    r"the engine at process (\d+) (has said nothing for \S+ s: it is killed|ended with status -9; it is started again)$"
)


class FleetServer(Server):
    """As `Server`; its process is the gateway, and all processes write the same log."""

    start_timeout_s = RESTART_LIMIT_S

    def __init__(self, starter: Starter, model: Path, folder: Path, *, name: str = "server") -> None:
        super().__init__(starter, model, folder, name=name)
        self.port = free_port_pair(2 + 2 * ENGINES)
        self._killed: set[int] = set()
        self._orphans: list[psutil.Process] = []
        self._stopped: tuple[int, psutil.Process] | None = None
        """The number and process of an engine that hangs."""

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, "--engines", str(ENGINES)]

    def engines(self) -> dict[int, psutil.Process]:
        """The engines' processes by number, also those that do not serve yet."""
        names = {engine_endpoint(self.endpoint, number): number for number in range(ENGINES)}
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    words = child.cmdline()
                    number = next((names[word] for word in words if word in names), None)
                    if number is not None and child.status() != psutil.STATUS_ZOMBIE:
                        found[number] = child
        return found

    def serving(self) -> list[int]:
        """The numbers of the engines that listen."""
        found = []
        for number, process in self.engines().items():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                listening = (one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
                if any(one.laddr.port == self._port_of(number) for one in listening):
                    found.append(number)
        return sorted(found)

    def engine_of_track(self) -> int | None:
        """Where the newest track has been greeted, if it was sent nowhere else since."""
        sent: dict[str, int] = {}
        newest = None
        for line in self._log_lines():
            if match := SENT.search(line):
                sent[match[1]], newest = int(match[2]), None
            elif match := GREETED.search(line):
                newest = sent.get(match[1])
        return None if newest is None else self._number_of(newest)

    def kill_engine(self, number: int) -> None:
        """SIGKILL, as soon as it has a process, and return when that has ended. Raises TimeoutError."""
        victim = self._wait_for_process(number)
        os.kill(victim.pid, signal.SIGKILL)
        while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)
        self._note_killed(number, victim)

    def stop_engine(self, number: int) -> None:
        """SIGSTOP, as soon as it has a process, until `wake_engine`. Raises TimeoutError."""
        self._stopped = number, self._wait_for_process(number)
        self._stopped[1].suspend()

    def wake_engine(self) -> None:
        """Let it go on that was stopped, unless the gateway has killed it meanwhile."""
        assert self._stopped
        (number, victim), self._stopped = self._stopped, None
        try:
            victim.resume()
        except psutil.NoSuchProcess:
            self._note_killed(number, victim)

    def _wait_for_process(self, number: int) -> psutil.Process:
        deadline = time.monotonic() + RESTART_LIMIT_S
        while (process := self.engines().get(number)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"engine {number} was not started again within {RESTART_LIMIT_S:.0f} s")
            time.sleep(POLL_S)
        return process

    def _note_killed(self, number: int, victim: psutil.Process) -> None:
        self._killed.add(victim.pid)
        with self.log.open("a") as log:
            log.write(f"killed: the engine at port {self._port_of(number)}\n")

    def wait_for_engines(self, count: int) -> None:
        """Until so many serve. Raises TimeoutError, or RuntimeError when the gateway has ended."""
        deadline = time.monotonic() + RESTART_LIMIT_S
        while len(self.serving()) < count:
            if not self.is_alive():
                raise RuntimeError("the gateway has ended by itself")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} engines do not serve after {RESTART_LIMIT_S:.0f} s")
            time.sleep(POLL_S)

    def settle(self) -> None:
        """Until all engines serve, and those of gateways before have ended. Raises TimeoutError."""
        self.wait_for_engines(ENGINES)
        _, left = psutil.wait_procs(self._orphans, timeout=RESTART_LIMIT_S)
        self._orphans = []
        if left:
            raise TimeoutError(f"engines outlive their gateway: {[one.pid for one in left]}")

    def lasting(self) -> Held:
        """What the gateway holds: its engines are young."""
        return self._held_by([psutil.Process(self.pid)])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """The gateway; its engines have to notice."""
        self._orphans += self.engines().values()
        super().kill(number)

    def known_tracks(self) -> set[str]:
        """As `Server`; what an engine knew dies with it."""
        place: dict[str, int] = {}
        known: dict[str, tuple[int, int]] = {}
        for line in self._log_lines():
            if match := SENT.search(line):
                place[match[1]] = int(match[2])
            elif match := GREETED.search(line):
                known[match[1]] = int(match[2]), place[match[1]]
            elif (match := GONE.search(line)) and known.get(match[1], (-1, 0))[0] == int(match[2]):
                del known[match[1]]
            elif match := KILLED.search(line):
                known = {track: at for track, at in known.items() if at[1] != int(match[1])}
        return set(known)

    def complaints(self) -> list[str]:
        """As `Server`, but for what the gateway says of engines that were killed here."""
        return [line for line in super().complaints() if not self._tells_of_kill(line)]

    def close(self) -> None:
        """End the gateway, and wait for its engines. Raises TimeoutError."""
        super().close()
        _, left = psutil.wait_procs(self._orphans, timeout=RESTART_LIMIT_S)
        if left:
            raise TimeoutError(f"engines outlive their gateway: {[one.pid for one in left]}")

    def _tells_of_kill(self, line: str) -> bool:
        match = REPLACED.search(line)
        return match is not None and int(match[1]) in self._killed

    def _port_of(self, number: int) -> int:
        return int(engine_endpoint(self.endpoint, number).rpartition(":")[2])

    def _number_of(self, port: int) -> int | None:
        ports: Sequence[int] = [self._port_of(number) for number in range(ENGINES)]
        return ports.index(port) if port in ports else None
