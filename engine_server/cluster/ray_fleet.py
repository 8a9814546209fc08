# SPDX-License-Identifier: Apache-2.0
"""The gateway's fleet on a Ray cluster: a thread that keeps the crew and takes the commands' orders."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Protocol

from engine_server.cluster.crew import LEAVE_S, Crew
from engine_server.cluster.desk import ClusterState, Order
from engine_server.serve.gateway import Place

POLL_S = 0.5
DISMISS_POLL_S = 0.1
ORDERS_REMEMBERED = 64
log = logging.getLogger("demon.cluster")


class Visits(Protocol):
    """See `OpenDesk`."""

    def visit(self, state: ClusterState) -> list[Order]: ...


class RayFleet:
    """Any thread may ask for `places`. What fails within the thread is logged, and tried again."""

    def __init__(self, crew: Crew, desk: Visits, endpoint: str, *, poll_s: float = POLL_S) -> None:
        self._crew, self._desk, self._endpoint, self._poll_s = crew, desk, endpoint, poll_s
        self._done: deque[str] = deque(maxlen=ORDERS_REMEMBERED)
        self._closing = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._thread.start()

    def places(self) -> list[Place]:
        """The engines that serve now."""
        return self._crew.places()

    def wait(self) -> str:
        """Wait until one serves, or none ever will, or `close` was called; why none will, else an empty text."""
        while not self._crew.places() and not self._crew.failure and not self._closing.is_set():
            time.sleep(DISMISS_POLL_S)
        return "" if self._crew.places() else self._crew.failure

    def close(self) -> None:
        """Let all engines take leave of their tracks, and end them."""
        self._closing.set()
        self._thread.join(2 * LEAVE_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._try_step()
            self._closing.wait(self._poll_s)
        deadline = time.monotonic() + LEAVE_S
        try:
            while not self._crew.dismiss() and time.monotonic() < deadline:
                time.sleep(DISMISS_POLL_S)
        except Exception:  # the cluster is gone, maybe; Ray ends the actors of a process that ends
            log.exception("the engines could not be told to end")

    def _try_step(self) -> None:
        try:
            self._crew.step()
            for order in self._desk.visit(self._state()):
                self._carry_out(order)
        except Exception as error:
            if (text := f"{type(error).__name__}: {error}") != self._trouble:
                self._trouble = text
                log.exception("the cluster cannot be looked after now")
        else:
            self._trouble = ""

    def _carry_out(self, order: Order) -> None:
        log.info("%s %s", order.verb, order.argument)
        match order.verb:
            case "drain":
                self._crew.drain(order.argument)
            case "undrain":
                self._crew.undrain(order.argument)
            case "scale":
                self._crew.scale(int(order.argument))
        self._crew.step()  # what is said next, with the order as done, shows it
        self._done.append(order.id)

    def _state(self) -> ClusterState:
        identity = self._crew.identity
        return ClusterState(
            endpoint=self._endpoint,
            wanted=self._crew.wanted,
            checkpoint=identity.checkpoint if identity else "",
            checkpoint_hash=identity.checkpoint_hash if identity else "",
            backend=identity.backend if identity else "",
            shortage=self._crew.shortage,
            nodes=self._crew.node_states(),
            engines=self._crew.engine_states(),
            done=tuple(self._done),
        )
