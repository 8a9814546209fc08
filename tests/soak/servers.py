# SPDX-License-Identifier: Apache-2.0
"""A server that is killed, stopped and started again, on ports of its own; its log; and what it holds of the machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.soak.ports import HOST, free_port_pair
from tests.soak.starter import Starter

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 15.0
KIB = 1024
# What `demon serve --verbose` says of tracks: the id is the routing id's first digits, a dot, and a number that grows.
GREETED = re.compile(r"track ([0-9a-f]+)\.(\d+): .* at \d+ Hz")
GONE = re.compile(r"track ([0-9a-f]+)\.(\d+) (left|fell silent)")


@dataclass(frozen=True)
class Held:
    """What a server and its workers hold."""

    rss_kib: float
    files: int
    threads: int
    processes: int
    connections: int
    """TCP connections, in any state."""


class Server:
    """`demon serve` with the tiny checkpoint. Keeps its ports over restarts; every life writes a log of its own."""

    start_timeout_s = START_TIMEOUT_S

    def __init__(self, starter: Starter, model: Path, folder: Path, *, name: str = "server") -> None:
        self._starter, self._model, self._folder, self._name = starter, model, folder, name
        self.port = free_port_pair()
        self.lives = 0
        self.pid = 0
        self._stdin = -1
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        """Its control port."""
        return f"tcp://{HOST}:{self.port}"

    @property
    def ports(self) -> tuple[int, int]:
        """Control and audio."""
        return self.port, self.port + 1

    @property
    def arguments(self) -> list[str]:
        """Of `demon`."""
        words = ["serve", "--verbose", "--until-stdin-closes"]
        return [*words, "--model", str(self._model), "--endpoint", self.endpoint]

    @property
    def log(self) -> Path:
        """Of this life."""
        return self._folder / f"{self._name}-{self.lives}.log"

    def start(self) -> None:
        """Start, or start again, and return once it serves. Raises RuntimeError with the end of its log if it does not."""
        self._close_stdin()
        self.lives += 1
        stdin_read, self._stdin = os.pipe()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        try:
            self.pid = self._starter.start(self.arguments, (stdin_read, log, log))
        finally:
            os.close(stdin_read)
            os.close(log)
        deadline = time.monotonic() + self.start_timeout_s
        while not any(line.startswith("serving ") for line in self._log_lines()):
            if not self.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.005)

    def is_alive(self) -> bool:
        """Whether its process is there and no zombie."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        return False

    def has_audio_port(self) -> bool:
        """Whether it listens on the second of its ports, too."""
        listening = (one for one in psutil.Process(self.pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN)
        return any(one.laddr.port == self.port + 1 for one in listening)

    def workers(self) -> list[int]:
        """Its child processes that compute; none where one process does everything."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
            return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        return []

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with its workers' knowledge or without, and return when it has ended."""
        if self.is_alive():
            os.kill(self.pid, number)
            self.wait_for_end()
        self._close_stdin()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to its workers."""
        for pid in (self.pid, *self.workers()):
            os.kill(pid, number)

    def wait_for_end(self) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while self.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} does not end")
            time.sleep(0.005)

    def held(self) -> Held:
        """Now, with all of its processes."""
        own = psutil.Process(self.pid)
        return self._held_by([own, *own.children(recursive=True)])

    def lasting(self) -> Held:
        """What the part of it that lives through faults holds: all of it."""
        return self.held()

    def settle(self) -> None:
        """Until it is as it was before the faults. Raises TimeoutError."""

    @staticmethod
    def _held_by(family: Sequence[psutil.Process]) -> Held:
        return Held(
            rss_kib=sum(one.memory_info().rss for one in family) / KIB,
            files=sum(one.num_fds() for one in family),
            threads=sum(one.num_threads() for one in family),
            processes=len(family),
            connections=sum(
                connection.status != psutil.CONN_LISTEN for one in family for connection in one.net_connections("tcp")
            ),
        )

    def greeted(self) -> int:
        """How many hellos this life has answered."""
        return sum(1 for line in self._log_lines() if GREETED.search(line))

    def known_tracks(self) -> set[str]:
        """The tracks that said hello to this life and of which it has not said that they are gone."""
        known: dict[str, int] = {}
        for line in self._log_lines():
            if match := GREETED.search(line):
                known[match[1]] = int(match[2])
            elif (match := GONE.search(line)) and known.get(match[1]) == int(match[2]):
                del known[match[1]]
        return set(known)

    def complaints(self) -> list[str]:
        """Tracebacks and errors in the logs of all lives: an engine that fails says so there."""
        return [
            f"{file.name}: {line}"
            for file in sorted(self._folder.glob(f"{self._name}-*.log"))
            for line in file.read_text(errors="replace").splitlines()
            if " ERROR " in line or line.startswith("Traceback")
        ]

    def close(self) -> None:
        """End it if it still runs."""
        self.kill()

    def _log_lines(self) -> Iterator[str]:
        yield from self.log.read_text(errors="replace").splitlines() if self.log.exists() else ()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def __enter__(self) -> Server:
        if not self.lives:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
