# SPDX-License-Identifier: Apache-2.0
"""The desk as a Ray actor: opened and visited by the gateway, called upon by the other commands."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from engine_server.cluster.desk import DESK_NAME, ClusterState, Desk, Order, Verb
from shared_protocol.errors import DemonError

ANSWER_S = 10.0
TAKEN_S = 15.0
"""A gateway that is there has taken an order by then."""
STALE_S = 10.0
NAME_FREE_S = 6.0
"""By then Ray has cleared away what a gateway that was killed has left."""
POLL_S = 0.2


class OpenDesk:
    """The gateway's side. It ends with the process that opened it. Raises DemonError `E_CLUSTER` if another gateway has one."""

    def __init__(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        # Softly it would be placed anywhere, as it takes nothing, and be lost with a node that is none of its own.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": DESK_NAME, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        deadline = time.monotonic() + NAME_FREE_S
        while True:
            try:
                self._actor = ray.remote(Desk).options(**options).remote()
                break
            except ValueError as error:
                if time.monotonic() > deadline:
                    raise DemonError("E_CLUSTER", "a gateway serves in this Ray cluster already") from error
                time.sleep(POLL_S)
        self._visit: Any = None

    def visit(self, state: ClusterState) -> list[Order]:
        """Begin a visit if none is under way; the orders that the last one has brought. Waits for nothing."""
        orders: list[Order] = []
        if self._visit is not None:
            ready, _ = self._ray.wait([self._visit], timeout=0)
            if not ready:
                return []
            visit, self._visit = self._visit, None
            try:
                orders = self._ray.get(visit)
            except (
                self._ray.exceptions.RayError
            ):  # its process has ended; who left an order is not told that it was taken
                orders = []
        self._visit = self._actor.exchange.remote(state)
        return orders

    def close(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor, no_restart=True)


class DeskVisitor:
    """A command's side. Raises DemonError `E_CLUSTER` where no gateway serves, also later when it does not answer."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        try:
            self._actor = ray.get_actor(DESK_NAME)
        except ValueError as error:
            raise DemonError(
                "E_CLUSTER", "no gateway serves in this Ray cluster; `demon cluster start` starts one"
            ) from error

    def state(self) -> ClusterState:
        """What the gateway said last."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            found: tuple[ClusterState, float] | None = None
            with contextlib.suppress(self._ray.exceptions.RayError):  # its process may have ended, and be started again
                found = self._ray.get(self._actor.state.remote(), timeout=ANSWER_S)
            if found and found[1] < STALE_S:
                return found[0]
            if time.monotonic() > deadline:
                raise DemonError("E_CLUSTER", "the gateway of this Ray cluster does not answer")
            time.sleep(POLL_S)

    def order(self, verb: Verb, argument: str) -> ClusterState:
        """Give an order and wait until the gateway has taken it; what it then says."""
        order = Order(verb, argument)
        try:
            self._ray.get(self._actor.order.remote(order), timeout=ANSWER_S)
        except self._ray.exceptions.RayError as error:
            raise DemonError("E_CLUSTER", f"the gateway's desk does not take the order to {verb}; try again") from error
        deadline = time.monotonic() + TAKEN_S
        while order.id not in (state := self.state()).done:
            if time.monotonic() > deadline:
                raise DemonError("E_CLUSTER", f"the gateway has not taken the order to {verb}; try again")
            time.sleep(POLL_S)
        return state
