# SPDX-License-Identifier: Apache-2.0
"""Which node gets an engine, and which engine has to go: pure policy, without clock and Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine_server.serve.endpoint import Address
from shared_protocol.errors import DemonError

SHORT_ID = 8
"""Digits of a node's id that tables and logs show."""
LEAST_DIGITS = 4
"""Digits of an id that a command may name a node by."""


@dataclass(frozen=True)
class Need:
    """What one engine takes of its node. cpus: also how many threads it computes with. gpus: 0, a part of one, or whole ones.

    Raises DemonError `E_FIELD`.
    """

    cpus: int
    gpus: float

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise DemonError("E_FIELD", f"an engine needs whole CPUs, and 0 to 1 or whole GPUs, not {self}")

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Node:
    """A node that is there. cpus, gpus: in all, as Ray counts them; trouble: why no engine is started there now, else empty."""

    id: str
    name: str
    address: str
    cpus: float
    gpus: float
    is_drained: bool = False
    trouble: str = ""

    @property
    def host(self) -> str:
        """Its address as endpoints have it."""
        return f"[{self.address}]" if ":" in self.address else self.address

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:SHORT_ID]})"


@dataclass(frozen=True)
class Post:
    """An engine at its node."""

    engine: int
    node: str
    tracks: int
    is_serving: bool
    is_leaving: bool


@dataclass(frozen=True)
class Decision:
    """start: ids of nodes, one for each engine to start there; leave: engines that take leave; missing: how many have no node."""

    start: tuple[str, ...]
    leave: tuple[int, ...]
    missing: int


def decide(
    wanted: int, nodes: Sequence[Node], posts: Sequence[Post], need: Need, *, hurried: frozenset[str] = frozenset()
) -> Decision:
    """What to do now for `wanted` engines on nodes that are not drained.

    An engine of a drained node leaves as soon as the others are enough, or cannot become more; those of nodes in `hurried`
    leave at once. Engines on nodes that are not in `nodes` do not count.
    """
    by_id = {node.id: node for node in nodes}
    present = [post for post in posts if post.node in by_id]
    staying = [post for post in present if not post.is_leaving and not by_id[post.node].is_drained]
    engines = Counter(post.node for post in present)
    start: list[str] = []
    for _ in range(wanted - len(staying)):
        node = _emptiest([one for one in nodes if is_open(one) and engines[one.id] < holds(one, need)], engines)
        if node is None:
            break
        engines[node.id] += 1
        start.append(node.id)
    serving = sum(post.is_serving for post in staying)
    can_grow = bool(start) or any(not post.is_serving for post in staying)
    leave = _surplus(staying, len(staying) - wanted)
    for post in present:
        if by_id[post.node].is_drained and not post.is_leaving:
            is_spare = not post.is_serving or serving >= wanted or not can_grow
            if is_spare or post.node in hurried:
                leave.append(post.engine)
    return Decision(tuple(start), tuple(leave), max(0, wanted - len(staying) - len(start)))


def holds(node: Node, need: Need) -> int:
    """How many engines a node has room for in all."""
    by_cpus = int(node.cpus / need.cpus)
    if need.gpus == 0:
        return by_cpus
    # Ray gives an engine that takes a part of a GPU no parts of two.
    by_gpus = int(node.gpus) * int(1 / need.gpus) if need.gpus < 1 else int(node.gpus / need.gpus)
    return min(by_cpus, by_gpus)


def is_open(node: Node) -> bool:
    """Whether engines may be started at a node, if it has room."""
    return not node.is_drained and not node.trouble


def shortage(missing: int, nodes: Sequence[Node], posts: Sequence[Post], need: Need) -> str:
    """Why some engines have no node: a sentence, and what can be said of each node."""
    engines = Counter(post.node for post in posts)

    def state(node: Node) -> str:
        if node.is_drained:
            return "drained"
        if holds(node, need) == 0:
            return f"it has {node.cpus:g} CPU and {node.gpus:g} GPU"
        if node.trouble:
            return node.trouble
        return f"has room for {holds(node, need)}, which it has" if engines[node.id] else "free"

    each = "; ".join(f"{node}: {state(node)}" for node in nodes) or "there is no node"
    return f"{missing} more engines are wanted, and each needs {need} of one node. {each}"


def find_node(text: str, nodes: Sequence[Node]) -> Node:
    """The node with that name, address, or beginning of an id. Raises DemonError `E_CLUSTER` for none and for several."""
    ways: tuple[Callable[[Node], bool], ...] = (
        lambda node: node.id.startswith(text) and len(text) >= LEAST_DIGITS,
        lambda node: text in (node.name, node.address),
    )
    for matches in ways:
        found = [node for node in nodes if matches(node)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DemonError("E_CLUSTER", f"{text} may be {' or '.join(map(str, found))}; give more of the id")
    known = ", ".join(map(str, nodes)) or "none"
    raise DemonError("E_CLUSTER", f"there is no node {text}; the nodes are: {known}")


def unreachable(node: Node, own_address: str, *, has_keys: bool) -> str:
    """Why tracks could not get to an engine at a node, empty if they can. has_keys: they may come from other machines."""
    is_loopback = Address(node.host, 0).is_loopback
    if has_keys and is_loopback:
        return f"nobody else reaches {node.address}; start Ray there with --node-ip-address"
    if not has_keys and node.address != own_address:
        return "engines on another machine need keys; start the gateway with --endpoint tcp://0.0.0.0:47800"
    return ""


def _emptiest(nodes: Sequence[Node], engines: Counter[str]) -> Node | None:
    return min(nodes, key=lambda node: (engines[node.id], node.name, node.id), default=None)


def _surplus(staying: Sequence[Post], count: int) -> list[int]:
    """Engines to end: first those that do not serve, then of the fullest node, then with the fewest tracks, then the newest."""
    remaining, leave = list(staying), []
    for _ in range(count):
        crowd = Counter(post.node for post in remaining)
        last = min(remaining, key=lambda post: (post.is_serving, -crowd[post.node], post.tracks, -post.engine))
        remaining.remove(last)
        leave.append(last.engine)
    return leave
