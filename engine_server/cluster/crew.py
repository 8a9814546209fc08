# SPDX-License-Identifier: Apache-2.0
"""The engines of a cluster: who serves, who has fallen silent, who is replaced. Knows neither Ray nor threads, only a clock."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine_server.cluster.desk import EngineState, NodeState
from engine_server.cluster.plan import Need, Node, Post, decide, holds, is_open, shortage
from engine_server.cluster.report import EngineGoneError, EngineInterruptedError, Identity, Report, disagreement
from engine_server.serve.gateway import LOST_S, SILENT_S, Place
from engine_server.serve.keys import AllowedClient

PLACED_S = 30.0
"""A new one that has not answered by then was not placed, probably: others hold what it needs of its node."""
BUSY_AGAIN_S, LOST_AGAIN_S, FAILED_AGAIN_S = 15.0, 10.0, 60.0
"""Before a node is tried again where there was no room, where an engine fell silent, and where one failed."""
DRAIN_PATIENCE_S = 60.0
"""So long an engine of a drained node waits for others to come up in its place."""
LEAVE_S = 12.0
SHORTAGE_TOLD_S = 10.0
log = logging.getLogger("demon.cluster")


class EngineHandle(Protocol):
    """See `RayEngine`."""

    def ask(self, clients: Sequence[AllowedClient] | None) -> None: ...
    def answer(self) -> Report | None: ...
    def leave(self) -> None: ...
    def has_left(self) -> bool: ...
    def kill(self) -> None: ...


class Nodes(Protocol):
    """See `RayEngines`."""

    def nodes(self) -> list[Node]: ...
    def start(self, node: Node) -> EngineHandle: ...


@dataclass
class _Engine:
    number: int
    node: Node
    handle: EngineHandle
    heard: float
    """When it answered last; before its first answer, when it was started."""
    report: Report | None = None
    leaving_since: float | None = None
    is_doubted: bool = False

    @property
    def is_serving(self) -> bool:
        return self.report is not None and self.report.state == "serving" and self.leaving_since is None


@dataclass(frozen=True)
class _Trouble:
    reason: str
    until: float
    is_failure: bool
    """An engine came up there and could not serve, nor will the next."""


class Crew:
    """Keeps `wanted` engines alive. All methods belong to one thread, but `places` and `failure`, which any may call.

    unfit: why a node can have no engine of ours at all, empty if it can; clients: who is allowed, None without keys.
    """

    def __init__(
        self,
        cluster: Nodes,
        need: Need,
        wanted: int,
        *,
        unfit: Callable[[Node], str] = lambda node: "",
        clients: Callable[[], Sequence[AllowedClient] | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._need, self.wanted = cluster, need, wanted
        self._unfit, self._clients, self._clock = unfit, clients, clock
        self._engines: list[_Engine] = []
        self._nodes: dict[str, Node] = {}
        self._drained: dict[str, float] = {}
        """Ids of drained nodes, and since when."""
        self._troubles: dict[str, _Trouble] = {}
        self._next_number = 1
        self.identity: Identity | None = None
        """Of the first engine that served: all others must agree with it, as long as the gateway lives."""
        self.shortage = ""
        self._short_since: float | None = None
        self._told: set[str] = set()
        self._published: tuple[tuple[Place, float], ...] = ()
        self.failure = ""
        """Why no engine will come up, if that is so and none ever has."""

    def places(self) -> list[Place]:
        """Where tracks can go now. Any thread; waits for nothing."""
        now = self._clock()
        return [place for place, heard in self._published if now - heard < SILENT_S]

    def scale(self, wanted: int) -> None:
        """Have so many engines from now on."""
        self.wanted = wanted

    def drain(self, node: str) -> None:
        """Take the engines away from a node, by its id, and start none there."""
        self._drained.setdefault(node, self._clock())

    def undrain(self, node: str) -> None:
        """Let a node have engines again."""
        self._drained.pop(node, None)
        self._troubles.pop(node, None)

    def step(self) -> None:
        """Hear what there is to hear, and do what there is to do."""
        self._look_at_nodes()
        for engine in list(self._engines):
            self._attend(engine)
        self._publish()  # before anybody is told to leave: what leaves is a place no longer
        self._carry_out()
        self._publish()

    def dismiss(self) -> bool:
        """Send all engines away; call it until it says that all are gone."""
        self.wanted = 0
        for engine in list(self._engines):
            if engine.leaving_since is None:
                self._send_away(engine)
            else:
                self._attend(engine)
        self._publish()
        return not self._engines

    def node_states(self) -> tuple[NodeState, ...]:
        """The table of nodes."""
        count = Counter(engine.node.id for engine in self._engines)

        def state(node: Node) -> str:
            if node.is_drained:
                return "draining" if count[node.id] else "drained"
            if not holds(node, self._need):
                return "too small"
            return node.trouble or ("in use" if count[node.id] else "free")

        nodes = sorted(self._nodes.values(), key=lambda node: (node.name, node.id))
        return tuple(
            NodeState(one.id, one.name, one.address, one.cpus, one.gpus, count[one.id], state(one)) for one in nodes
        )

    def engine_states(self) -> tuple[EngineState, ...]:
        """The table of engines."""
        now = self._clock()

        def state(engine: _Engine) -> str:
            if engine.leaving_since is not None:
                return "leaving"
            if engine.report is None:
                return "starting"
            return "silent" if now - engine.heard >= SILENT_S else engine.report.state

        rows = []
        for one in self._engines:
            said = one.report or Report("loading", 0)
            rows.append(
                EngineState(
                    one.number,
                    one.node.id,
                    said.pid,
                    said.endpoint,
                    state(one),
                    said.tracks,
                    said.capacity,
                    said.devices,
                )
            )
        return tuple(rows)

    def _look_at_nodes(self) -> None:
        now = self._clock()
        self._troubles = {node: trouble for node, trouble in self._troubles.items() if trouble.until > now}
        found = {}
        for node in self._cluster.nodes():
            trouble = self._troubles.get(node.id)
            reason = self._unfit(node) or (trouble.reason if trouble else "")
            found[node.id] = replace(node, is_drained=node.id in self._drained, trouble=reason)
        for engine in [one for one in self._engines if one.node.id not in found]:
            self._remove(engine, "its node is gone")
        self._nodes = found

    def _attend(self, engine: _Engine) -> None:
        now = self._clock()
        if engine.leaving_since is not None:
            if engine.handle.has_left() or now - engine.leaving_since > LEAVE_S:
                self._remove(engine)
            return
        try:
            report = engine.handle.answer()
        except EngineInterruptedError:
            if engine.report:  # said once, however long it takes to start
                self._say(logging.WARNING, engine, "has ended and is started again")
                engine.report, engine.heard = None, now
            report = None
        except EngineGoneError as error:
            self._remove(engine, str(error), again_s=LOST_AGAIN_S if engine.report else FAILED_AGAIN_S)
            return
        if report:
            self._hear(engine, report, now)
        elif engine.report is None and now - engine.heard > PLACED_S:
            self._doubt(engine)
        elif engine.report and now - engine.heard > LOST_S:
            self._remove(engine, f"has not answered for {LOST_S:g} s", again_s=LOST_AGAIN_S)
        if engine in self._engines:
            engine.handle.ask(self._clients())

    def _doubt(self, engine: _Engine) -> None:
        """It does not start: try another node, if there is one. Else it goes on waiting, as the next one there would."""
        text = f"not started within {PLACED_S:g} s: others may hold what an engine needs"
        count = Counter(one.node.id for one in self._engines)
        others = [node for node in self._nodes.values() if node.id != engine.node.id]
        if any(is_open(node) and count[node.id] < holds(node, self._need) for node in others):
            self._remove(engine, text, again_s=BUSY_AGAIN_S)
        elif not engine.is_doubted:
            engine.is_doubted = True
            self._say(logging.WARNING, engine, text)

    def _hear(self, engine: _Engine, report: Report, now: float) -> None:
        before, engine.report, engine.heard = engine.report, report, now
        if report.state in ("failed", "ended"):
            had_served = before is not None and before.state == "serving"
            self._remove(engine, report.reason or "ended", again_s=LOST_AGAIN_S if had_served else FAILED_AGAIN_S)
            return
        if report.state != "serving" or report.identity is None:
            return
        self.identity = self.identity or report.identity
        if reason := disagreement(self.identity, report.identity):
            self._remove(engine, f"E_CLUSTER: refused, since {reason}", again_s=FAILED_AGAIN_S)
            return
        if before is None or before.state != "serving":
            self._say(logging.INFO, engine, f"serves at {report.endpoint}")
            self._compare_processors(engine, self.identity.processor, report.identity.processor)

    def _compare_processors(self, engine: _Engine, first: str, other: str) -> None:
        text = f"{engine.node} has another kind of processor, {other}, than the first, {first}: its bits may differ"
        if first != other and text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _carry_out(self) -> None:
        now = self._clock()
        posts = [
            Post(
                engine.number,
                engine.node.id,
                engine.report.tracks if engine.report else 0,
                engine.is_serving and now - engine.heard < SILENT_S,
                engine.leaving_since is not None,
            )
            for engine in self._engines
        ]
        nodes = list(self._nodes.values())
        hurried = frozenset(node for node, since in self._drained.items() if now - since > DRAIN_PATIENCE_S)
        decision = decide(self.wanted, nodes, posts, self._need, hurried=hurried)
        for engine in [one for one in self._engines if one.number in decision.leave]:
            self._send_away(engine)
        for node in decision.start:
            self._start(self._nodes[node], now)
        self._note_shortage(decision.missing, nodes, posts, now)

    def _start(self, node: Node, now: float) -> None:
        engine = _Engine(self._next_number, node, self._cluster.start(node), now)
        self._next_number += 1
        self._engines.append(engine)
        self._say(logging.INFO, engine, "is started")
        engine.handle.ask(self._clients())

    def _send_away(self, engine: _Engine) -> None:
        self._say(logging.INFO, engine, "leaves")
        is_serving, engine.leaving_since = engine.is_serving, self._clock()
        self._publish()
        if is_serving:
            engine.handle.leave()
        else:
            self._remove(engine)

    def _remove(self, engine: _Engine, reason: str = "", *, again_s: float = 0.0) -> None:
        """Forget an engine and end its actor. reason: if it was not told to go; its node then rests for again_s."""
        engine.handle.kill()
        self._engines.remove(engine)
        if reason:
            self._say(logging.ERROR, engine, reason)
        if again_s:
            trouble = _Trouble(reason, self._clock() + again_s, is_failure=again_s == FAILED_AGAIN_S)
            self._troubles[engine.node.id] = trouble
            if node := self._nodes.get(engine.node.id):
                self._nodes[node.id] = replace(node, trouble=reason)

    def _publish(self) -> None:
        self._published = tuple(
            (Place(one.report.endpoint, one.report.key, one.report.tracks, one.report.capacity), one.heard)
            for one in self._engines
            if one.is_serving and one.report and one.node.id not in self._drained
        )

    def _note_shortage(self, missing: int, nodes: Sequence[Node], posts: Sequence[Post], now: float) -> None:
        if not missing:
            self.shortage, self._short_since = "", None
            return
        self._short_since = now if self._short_since is None else self._short_since
        text = shortage(missing, nodes, posts, self._need)
        if now - self._short_since >= SHORTAGE_TOLD_S and text != self.shortage:
            self.shortage = text
            log.warning("%s", text)
        if self.identity is None and not self._engines:
            self.failure = self._find_failure(nodes)

    def _find_failure(self, nodes: Sequence[Node]) -> str:
        """What went wrong at every node that an engine could have; empty if there is hope."""
        fitting = [node for node in nodes if not node.is_drained and holds(node, self._need) and not self._unfit(node)]
        failed = [node for node in fitting if node.id in self._troubles and self._troubles[node.id].is_failure]
        return "; ".join(f"{node}: {node.trouble}" for node in failed) if len(failed) == len(fitting) else ""

    def _say(self, level: int, engine: _Engine, what: str) -> None:
        pid = f", process {engine.report.pid}" if engine.report else ""
        log.log(level, "engine %d at %s%s: %s", engine.number, engine.node, pid, what)
