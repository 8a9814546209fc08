# SPDX-License-Identifier: Apache-2.0
"""Engines as Ray actors: started at a node, asked without waiting, ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine_server.cluster.engine_actor import EngineActor, EngineSettings
from engine_server.cluster.plan import Need, Node
from engine_server.cluster.ray_access import import_ray
from engine_server.cluster.report import EngineGoneError, EngineInterruptedError, Report

if TYPE_CHECKING:
    from engine_server.serve.keys import AllowedClient

LONGEST = 200
"""Characters of a line that Ray says."""


class RayEngine:
    """One actor. No method waits for it; the fleet's thread calls them all."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._question: Any = None
        self._farewell: Any = None

    def ask(self, clients: Sequence[AllowedClient] | None) -> None:
        """Ask for a report, unless a question is open."""
        if self._question is None:
            self._question = self._actor.report.remote(clients)

    def answer(self) -> Report | None:
        """The answer to `ask`, None while there is none. Raises EngineInterruptedError, EngineGoneError."""
        if self._question is None or not self._is_done(self._question):
            return None
        question, self._question = self._question, None
        failures = self._ray.exceptions
        try:
            found: Report = self._ray.get(question)
            return found
        except failures.ActorUnavailableError as error:
            raise EngineInterruptedError from error
        except failures.RayError as error:
            raise EngineGoneError(_shorten(error)) from error

    def leave(self) -> None:
        """Ask the engine to take leave of its tracks."""
        self._farewell = self._actor.leave.remote()

    def has_left(self) -> bool:
        """Whether it has, or is gone."""
        return self._is_done(self._farewell)

    def kill(self) -> None:
        """End the actor for good."""
        self._ray.kill(self._actor, no_restart=True)

    def _is_done(self, reference: Any) -> bool:
        ready, _ = self._ray.wait([reference], timeout=0)
        return bool(ready)


class RayEngines:
    """Nodes of the cluster that this process has joined, and engines on them. The fleet's thread."""

    def __init__(self, settings: EngineSettings, need: Need) -> None:
        self._ray = import_ray()
        self._settings, self._need = settings, need

    @property
    def own_address(self) -> str:
        """Of this machine, as the cluster knows it."""
        return str(self._ray.util.get_node_ip_address())

    def nodes(self) -> list[Node]:
        """The nodes that are alive. Waits for the head node while that is away."""
        return [to_node(one) for one in self._ray.nodes() if one["Alive"]]

    def start(self, node: Node) -> RayEngine:
        """Start an engine at a node, where Ray starts it again whenever its process ends."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        environment = {
            # Read when torch is imported; and bits may depend on the number of threads.
            "OMP_NUM_THREADS": str(self._settings.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
        }
        host = node.host if self._settings.gateway_key else "127.0.0.1"
        actor = (
            self._ray.remote(EngineActor)
            .options(
                num_cpus=self._need.cpus,
                num_gpus=self._need.gpus,
                max_restarts=-1,
                max_task_retries=0,  # what was asked of a process that has ended is asked anew
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                runtime_env={"env_vars": environment},
            )
            .remote(self._settings, host)
        )
        return RayEngine(self._ray, actor)


def to_node(entry: Mapping[str, Any]) -> Node:
    """A row of `ray.nodes()`."""
    resources = entry["Resources"]
    address = entry["NodeManagerAddress"]
    name = entry.get("NodeName") or address
    if name == address:  # the default: a host's name says more
        name = entry.get("NodeManagerHostname") or address
    return Node(entry["NodeID"], name, address, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _shorten(error: Exception) -> str:
    """What happened and, of a failure in the actor, its cause, without the traceback between them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:LONGEST] if len(lines) == 1 else f"{lines[0][:LONGEST]} ... {lines[-1][:LONGEST]}"
