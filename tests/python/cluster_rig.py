# SPDX-License-Identifier: Apache-2.0
"""Several Ray nodes on this machine, and `demon cluster start` as a process, for the tests of engines on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine_server.cluster.desk import ClusterState, EngineState

START_TIMEOUT_S = 120.0
SETTLED_S = 60.0
DEMON = [sys.executable, "-m", "engine_server.cli"]


class RayNodes:
    """A head that holds no engines, and nodes that do, by name. cpus: of each, as Ray counts them."""

    def __init__(self, *names: str, cpus: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = self._folder.name  # else `--address auto` elsewhere would find this cluster
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "node_name": "head", "include_dashboard": False}
        )
        self.address = self._cluster.address
        self._cpus = cpus
        self._nodes: dict = {}
        for name in names:
            self.add(name)

    def add(self, name: str, **options) -> None:
        self._nodes[name] = self._cluster.add_node(num_cpus=self._cpus, node_name=name, **options)

    def lose(self, name: str) -> None:
        """The node's own process dies, as if the machine had."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()
        self._folder.cleanup()
        if self._before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = self._before


class ClusterGateway:
    """`demon cluster start`, and its other commands."""

    def __init__(self, nodes: RayNodes, model: Path, *, engines: int, cpus: int, endpoint="tcp://127.0.0.1:*") -> None:
        self._nodes = nodes
        command = [*DEMON, "cluster", "start", "--engines", str(engines), "--cpus", str(cpus), "--model", str(model)]
        command += ["--address", nodes.address, "--endpoint", endpoint, "--first-port", "0"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), f"the gateway did not start: {line!r} {self.log()}"
        self.endpoint = line.split()[1]

    def log(self) -> str:
        """What it has said on standard error."""
        self._log.seek(0)
        return self._log.read()

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Another command of `demon cluster`."""
        command = [*DEMON, "cluster", *arguments, "--address", self._nodes.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)

    def state(self) -> ClusterState:
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout, type=ClusterState)

    def wait_for(self, what: Callable[[ClusterState], bool]) -> ClusterState:
        deadline = time.monotonic() + SETTLED_S
        while not what(state := self.state()):
            assert time.monotonic() < deadline, f"it stays as it is: {state}\n{self.log()}"
        return state

    def end(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()


@contextmanager
def running(*arguments, **options) -> Iterator[ClusterGateway]:
    gateway = ClusterGateway(*arguments, **options)
    try:
        yield gateway
    finally:
        gateway.close()


def serving(state: ClusterState) -> list[EngineState]:
    return [engine for engine in state.engines if engine.state == "serving"]


def names_of(state: ClusterState) -> list[str]:
    """The nodes of the engines that serve, in order, as often as there are engines."""
    names = {node.id: node.name for node in state.nodes}
    return sorted(names[engine.node] for engine in serving(state))
