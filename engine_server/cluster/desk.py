# SPDX-License-Identifier: Apache-2.0
"""Where the other commands meet the gateway: it holds their orders, and what the gateway said last of itself."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

DESK_NAME = "gateway"
Verb = Literal["drain", "undrain", "scale"]


@dataclass(frozen=True)
class Order:
    """drain, undrain: the id of a node; scale: how many engines there shall be."""

    verb: Verb
    argument: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class NodeState:
    """A row of the table of nodes. engines: how many are there."""

    id: str
    name: str
    address: str
    cpus: float
    gpus: float
    engines: int
    state: str


@dataclass(frozen=True)
class EngineState:
    """A row of the table of engines."""

    engine: int
    node: str
    pid: int
    endpoint: str
    state: str
    tracks: int
    capacity: int
    devices: str


@dataclass(frozen=True)
class ClusterState:
    """What the gateway says of itself. done: ids of the orders that it has taken, the last ones."""

    endpoint: str
    wanted: int
    checkpoint: str
    checkpoint_hash: str
    backend: str
    shortage: str
    nodes: tuple[NodeState, ...]
    engines: tuple[EngineState, ...]
    done: tuple[str, ...]


class Desk:
    """The actor. If its process ends Ray starts it again, empty, and the gateway soon says anew how things are."""

    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._state: ClusterState | None = None
        self._seen = 0.0

    def order(self, order: Order) -> None:
        """Leave an order for the gateway."""
        self._orders.append(order)

    def exchange(self, state: ClusterState) -> list[Order]:
        """The gateway's visit: it says how things are and takes what is here."""
        self._state, self._seen = state, time.monotonic()
        taken, self._orders = self._orders, []
        return taken

    def state(self) -> tuple[ClusterState, float] | None:
        """What the gateway said last, and how many seconds ago; None if nothing yet."""
        return (self._state, time.monotonic() - self._seen) if self._state else None
