# SPDX-License-Identifier: Apache-2.0
"""Engines in processes of their own on this machine, started again when they end."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

from engine_server.serve.endpoint import Address, engine_endpoint, parse_endpoint
from engine_server.serve.gateway import LOST_S, SILENT_S, Place
from engine_server.serve.gpus import VARIABLE

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Before an engine is started again; doubled while it ends before it serves."""
END_TIMEOUT_S = 10.0
POLL_S = 0.05
LISTEN_S = 0.25
"""Silence is counted in vain waits of this length, not by a clock: else a gateway that was stopped itself, and its engines with
it, would call them all silent when they go on."""
READ_BYTES = 4096
TRIES = 2
"""An engine that has ended so often before it ever served has something wrong with its options, which its messages tell."""
log = logging.getLogger("demon.fleet")


class EngineProcess:
    """One `demon serve`, kept alive until `close`. Its thread reads what the process says. Any thread may ask for `place`.

    What has served and says nothing any more is killed. Before it serves it may be as silent as it likes: loading takes its time.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._command = list(command)
        self._environment = environment
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint = ""
        """Where it serves; empty until it does."""
        self._tracks = self._capacity = 0
        self._silent_s = 0.0
        self.failures = 0
        """How often in a row the process has ended before it served."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine process", daemon=True)
        self._thread.start()

    @property
    def place(self) -> Place | None:
        """Where it serves; None while it does not, or is silent."""
        with self._lock:
            address = parse_endpoint(self._endpoint)
            if self.pid is None or address is None or not self._capacity or self._silent_s >= SILENT_S:
                return None
            return Place(str(Address("*", address.port)), "", self._tracks, self._capacity)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def close(self) -> None:
        """End the process, which takes leave of its tracks; kill it if it takes too long."""
        self._closing.set()
        if process := self._process:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(END_TIMEOUT_S)

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                has_served = self._serve_once()
            except OSError as error:  # no memory, or no file descriptor, for another process: there may be, later
                log.error("an engine could not be started: %s", error)
                has_served = False
            self.failures = 0 if has_served else self.failures + 1
            pause = FIRST_PAUSE_S if self.failures == 0 else min(2 * pause, LONGEST_PAUSE_S)
            self._closing.wait(pause)

    def _serve_once(self) -> bool:
        """Run the process until it ends; whether it has served."""
        process = self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment
        )
        assert process.stdout is not None
        with process.stdout as output:
            if self._closing.is_set():  # close may have come before there was a process
                process.kill()
            for line in _lines(output):
                self._note(line)
                if self._silent_s >= LOST_S:
                    log.error("the engine at process %d has said nothing for %g s: it is killed", process.pid, LOST_S)
                    process.kill()
                    break
        with self._lock:
            has_served = bool(self._endpoint)
            self._endpoint, self._capacity, self._silent_s = "", 0, 0.0
        status = process.wait()
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        if not self._closing.is_set():
            log.error("the engine at process %d ended with status %d; it is started again", process.pid, status)
        return has_served

    def _note(self, line: str | None) -> None:
        """What the process says; None for a wait in vain."""
        with self._lock:
            if line is None:
                self._silent_s += LISTEN_S if self._endpoint else 0.0
                return
            self._silent_s = 0.0
            word, _, rest = line.strip().partition(" ")
            if word == "serving":
                self._endpoint = rest.split()[0]
            elif word == "tracks":
                self._tracks, self._capacity = (int(number) for number in rest.split())


def _lines(pipe: IO[bytes]) -> Iterator[str | None]:
    """The lines that come, and None for every `LISTEN_S` in which nothing does, until the other end is closed."""
    poller, rest = select.poll(), b""
    poller.register(pipe, select.POLLIN)
    while True:
        if not poller.poll(1000 * LISTEN_S):
            yield None
        elif received := os.read(pipe.fileno(), READ_BYTES):
            *lines, rest = (rest + received).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        else:
            return


class LocalFleet:
    """`count` engines with the same options, each with its share of the processors. Any thread.

    gpus: values of `CUDA_VISIBLE_DEVICES`, dealt out in turn; where there are more engines than those, some share one. None
    leaves the variable as it is.
    """

    def __init__(self, count: int, endpoint: str, options: Sequence[str], gpus: Sequence[str] = ()) -> None:
        threads = max(1, (os.cpu_count() or 1) // count)
        # The same for all: bits may depend on it, and a track may move from one to another.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        program = [sys.executable, "-m", "engine_server.cli", "serve", "--until-stdin-closes", "--report-tracks"]
        self._engines = [
            EngineProcess(
                [*program, "--endpoint", engine_endpoint(endpoint, number), *options],
                environment | ({VARIABLE: gpus[number % len(gpus)]} if gpus else {}),
            )
            for number in range(count)
        ]

    @property
    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return [pid for engine in self._engines if (pid := engine.pid) is not None]

    def places(self) -> list[Place]:
        """The engines that serve now."""
        return [place for engine in self._engines if (place := engine.place) is not None]

    def wait(self) -> bool:
        """Wait until one serves, or each has failed to; whether one does."""
        while not (found := bool(self.places())) and any(engine.failures < TRIES for engine in self._engines):
            time.sleep(POLL_S)
        return found

    def reload(self) -> None:
        """Let every engine load its checkpoint and LoRAs anew."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def close(self) -> None:
        """End all engines, side by side."""
        threads = [threading.Thread(target=engine.close) for engine in self._engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
