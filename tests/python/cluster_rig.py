# SPDX-License-Identifier: Apache-2.0
"""Several Ray nodes on this machine, and `demon cluster start` as a process, for the tests of engines on a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from wire import WireClient

from engine_server.cluster.desk import ClusterState, EngineState
from engine_server.cluster.ray_access import join
from engine_server.cluster.ray_desk import DeskVisitor
from shared_protocol import messages as m

FRAME = 1920
PING_S, SILENCE_S = 0.25, 3.0
COMMAND_TIMEOUT_S = 180.0
TRIES = 3
"""Ray gives a node 30 s to come up, and a machine that is busy with other things may need more."""
SETTLED_S = 90.0
DEMON = [sys.executable, "-m", "engine_server.cli"]


class RayNodes:
    """A head that holds no engines, and nodes that do, by name, each with a folder of its own for settings.

    cpus: of each, as Ray counts them. This process joins the cluster, and can ask a gateway in it how it is.
    """

    def __init__(self, *names: str, cpus: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "RAY_USAGE_STATS_ENABLED")}
        # Else `--address auto` elsewhere on this machine would find this cluster.
        os.environ |= {"RAY_TMPDIR": self._folder.name, "RAY_USAGE_STATS_ENABLED": "0"}
        self._handler = signal.getsignal(signal.SIGTERM)
        self._cpus = cpus
        self.gateway: ClusterGateway | None = None
        for remaining in reversed(range(TRIES)):
            try:
                self._build(names)
                break
            except Exception:
                self._cluster.shutdown()
                if not remaining:
                    raise
        self.address = self._cluster.address
        self._ray = join(self.address)

    def _build(self, names: Sequence[str]) -> None:
        from ray.cluster_utils import Cluster

        self._nodes: dict[str, Any] = {}
        self._cluster = Cluster()
        self._cluster.add_node(num_cpus=0, node_name="head", include_dashboard=False)
        for name in names:
            self.add(name)

    def add(self, name: str, **options: Any) -> None:
        environment = {"XDG_CONFIG_HOME": str(self.settings_of(name))}
        options = {"num_cpus": self._cpus, "env_vars": environment} | options
        self._nodes[name] = self._cluster.add_node(node_name=name, **options)

    def settings_of(self, name: str) -> Path:
        """What `XDG_CONFIG_HOME` is at a node."""
        return Path(self._folder.name) / f"settings-{name}"

    def lose(self, name: str) -> None:
        """The node's own process dies, as if the machine had."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def remove(self, name: str) -> None:
        """The node leaves the cluster."""
        self._cluster.remove_node(self._nodes.pop(name))

    def state(self) -> ClusterState:
        """What the gateway in this cluster says."""
        return DeskVisitor(self._ray).state()

    def wait_for(self, what: Callable[[ClusterState], bool]) -> ClusterState:
        """Its state as soon as it is so."""
        deadline = time.monotonic() + SETTLED_S
        while not what(state := self.state()):
            assert time.monotonic() < deadline, f"it stays as it is: {state}"
            time.sleep(0.2)
        return state

    def close(self) -> None:
        self._ray.shutdown()
        self._cluster.shutdown()
        self._folder.cleanup()
        signal.signal(signal.SIGTERM, self._handler)
        for name, value in self._before.items():
            os.environ.pop(name)
            os.environ |= {name: value} if value is not None else {}


class ClusterGateway:
    """`demon cluster start` in a process of its own, on a port of its own, and the other commands."""

    def __init__(
        self,
        nodes: RayNodes,
        model: Path,
        *,
        engines: int,
        cpus: int,
        endpoint: str = "tcp://127.0.0.1:*",
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        if nodes.gateway:  # a cluster has one at a time
            nodes.gateway.close()
        nodes.gateway, self._nodes = self, nodes
        command = [*DEMON, "cluster", "start", "--engines", str(engines), "--cpus", str(cpus), "--model", str(model)]
        command += ["--address", nodes.address, "--endpoint", endpoint, "--first-port", "0", *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=os.environ | dict(environment or {})
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), f"the gateway did not start: {line!r} {self.log()}"
        self.endpoint = line.split()[1]

    def log(self) -> str:
        """What it has said on standard error."""
        self._log.seek(0)
        return self._log.read()

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Another command of `demon cluster`, while it runs."""
        command = [*DEMON, "cluster", *arguments, "--address", self._nodes.address]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Another command: its exit status, and what it says."""
        process = self.begin(*arguments)
        out, errors = process.communicate(timeout=COMMAND_TIMEOUT_S)
        return process.returncode, out + errors

    def end(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(COMMAND_TIMEOUT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> ClusterGateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bounce:
    """A bounce of `source` `[2, N]` at 48 kHz that survives its engine: what was fed is fed again where it stood."""

    def __init__(self, client: WireClient, source: np.ndarray, lane: float) -> None:
        self._client, self._lane = client, lane
        self._frames = source.shape[1] // FRAME
        self._padded = np.pad(source, ((0, 0), (0, 200 * FRAME)))
        self._parts: list[np.ndarray] = []
        self._retain = 0
        self.go_on()

    @property
    def position(self) -> int:
        """The first frame that has not come."""
        return sum(part.shape[1] for part in self._parts) // FRAME

    def go_on(self) -> None:
        """Say hello, and feed what the engine needs to go on from here."""
        self._retain = self._client.hello().header.retain
        start = max(0, self.position - self._retain)
        self._client.send(m.Begin(1, "stream", 0, start, self.position, True))
        for frame in range(start, self._frames + 160, 32):
            self._client.feed(1, frame, self._padded[:, frame * FRAME : (frame + 32) * FRAME], self._lane)

    def take(self, frames: int) -> None:
        """Receive windows until there are so many frames; where the engine falls silent or has forgotten us, go on elsewhere."""
        heard = time.monotonic()
        while self.position < frames:
            try:
                header, audio = self._receive()
                heard = time.monotonic()
            except TimeoutError:
                header, audio = None, None
            if isinstance(header, m.Window) and header.frame == self.position:
                self._parts.append(audio)
                self._client.ping(1, self.position)
            elif isinstance(header, m.Closing | m.Error) or time.monotonic() - heard > SILENCE_S:
                self.go_on()
                heard = time.monotonic()
            elif header is None:
                self._client.ping(1, self.position)

    def _receive(self) -> tuple[Any, Any]:
        packet = self._client.wait_for(m.Window | m.Progress | m.Pong | m.Closing | m.Error, timeout_s=PING_S)
        return packet.header, packet.audio

    def wait_for_farewell(self, timeout_s: float = 240.0) -> None:
        """Live on, without taking anything, until the engine closes: once another has started, on a machine that may be busy."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._client.ping(1, self.position)
            with contextlib.suppress(TimeoutError):
                self._client.wait_for(m.Closing, timeout_s=PING_S)
                return
        raise TimeoutError("the engine has not said that it closes")

    def finish(self) -> np.ndarray:
        """The whole result, of the source's length."""
        self.take(self._frames)
        return np.concatenate(self._parts, axis=1)[:, : self._frames * FRAME]


def serving(state: ClusterState) -> list[EngineState]:
    return [engine for engine in state.engines if engine.state == "serving"]


def names_of(state: ClusterState) -> list[str]:
    """The nodes of the engines that serve, in order, as often as there are engines."""
    names = {node.id: node.name for node in state.nodes}
    return sorted(names[engine.node] for engine in serving(state))


def engine_at(state: ClusterState, endpoint: str) -> tuple[EngineState, str]:
    """The engine that serves there, and the name of its node."""
    engine = next(engine for engine in state.engines if engine.endpoint == endpoint)
    return engine, next(node.name for node in state.nodes if node.id == engine.node)
