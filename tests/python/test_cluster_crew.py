# SPDX-License-Identifier: Apache-2.0
"""The crew of engines against nodes and engines that a test moves by hand: silence, loss, refusal, farewells. Without Ray."""

from __future__ import annotations

import logging

import pytest

from engine_server.cluster import crew as crew_module
from engine_server.cluster.crew import (
    DRAIN_PATIENCE_S,
    FAILED_AGAIN_S,
    LEAVE_S,
    LOST_S,
    PLACED_S,
    SHORTAGE_TOLD_S,
    SILENT_S,
    Crew,
)
from engine_server.cluster.desk import Order
from engine_server.cluster.plan import Need, Node
from engine_server.cluster.ray_fleet import RayFleet
from engine_server.cluster.report import EngineGoneError, EngineInterruptedError, Identity, Report

IDENTITY = Identity("tiny", "a" * 64, "eager cpu float32", "0.1.0", "torch 2.13.0", 2, "some processor")
NODES = [Node(f"{name}000", name, "10.0.0.1", 2, 0) for name in "ab"]


class StillEngine:
    """An engine that says what a test lets it say."""

    def __init__(self, node, number):
        self.node, self.number = node, number
        self.next: Report | Exception | None = None
        self.is_left = self.is_told = self.is_killed = False
        self.clients: list = []

    def serve(self, tracks=0, **identity):
        said = Identity(**{**{name: getattr(IDENTITY, name) for name in Identity.__dataclass_fields__}, **identity})
        self.next = Report("serving", 100 + self.number, f"tcp://10.0.0.1:{5000 + self.number}", "", tracks, 64, said)

    def ask(self, clients):
        self.clients.append(clients)

    def answer(self):
        if isinstance(self.next, Exception):
            error, self.next = self.next, None
            raise error
        return self.next

    def leave(self):
        self.is_told = True

    def has_left(self):
        return self.is_left

    def kill(self):
        self.is_killed = True


class Rig:
    """A crew, its nodes and engines, and a clock."""

    def __init__(self, wanted=2, **options):
        self.now = 0.0
        self.up = list(NODES)
        self.engines: list[StillEngine] = []
        self.crew = Crew(self, Need(1, 0), wanted, clock=lambda: self.now, **options)

    def nodes(self):
        return list(self.up)

    def start(self, node):
        self.engines.append(StillEngine(node, len(self.engines)))
        return self.engines[-1]

    def step(self, seconds=0.5):
        self.now += seconds
        self.crew.step()

    def serve_all(self):
        for engine in self.engines:
            if not engine.is_killed:
                engine.serve()
        self.step()
        self.step()

    def places(self):
        return sorted(place.endpoint for place in self.crew.places())


@pytest.fixture
def rig():
    made = Rig()
    made.step()
    return made


def test_engines_are_started_one_per_node_and_are_places_when_they_serve(rig):
    assert [engine.node.name for engine in rig.engines] == ["a", "b"]
    rig.engines[0].next = Report("loading", 1)
    rig.step()
    assert rig.places() == []
    rig.serve_all()
    assert rig.places() == ["tcp://10.0.0.1:5000", "tcp://10.0.0.1:5001"]
    assert rig.crew.identity == IDENTITY


def test_one_that_falls_silent_is_no_place_then_is_replaced_elsewhere(rig):
    rig.serve_all()
    rig.engines[0].next = None
    rig.step(SILENT_S - 1)
    rig.engines[1].serve()
    rig.step(0.5)
    rig.step(1)
    assert rig.places() == ["tcp://10.0.0.1:5001"]
    assert not rig.engines[0].is_killed
    rig.step(LOST_S)
    assert rig.engines[0].is_killed
    assert rig.engines[2].node.name == "b"


def test_places_are_judged_by_the_clock_also_when_nobody_looks_after_the_crew(rig):
    rig.serve_all()
    rig.now += SILENT_S
    assert rig.places() == []


def test_one_whose_process_ends_is_no_place_until_it_serves_again(rig):
    rig.serve_all()
    rig.engines[0].next = EngineInterruptedError("killed")
    rig.step()
    assert rig.places() == ["tcp://10.0.0.1:5001"]
    assert len(rig.engines) == 2
    rig.engines[0].serve()
    rig.step()
    assert len(rig.places()) == 2


def test_one_that_ray_gives_up_is_replaced(rig):
    rig.serve_all()
    rig.engines[0].next = EngineGoneError("unschedulable")
    rig.step()
    assert len(rig.engines) == 3


def test_engines_of_a_node_that_is_gone_are_replaced_on_the_others(rig):
    rig.serve_all()
    rig.up = [NODES[1]]
    rig.step()
    assert rig.places() == ["tcp://10.0.0.1:5001"]
    assert rig.engines[2].node.name == "b"


def test_a_node_where_an_engine_is_not_placed_in_time_rests(rig):
    rig.engines[1].serve()
    rig.step()
    rig.step(PLACED_S)
    assert rig.engines[0].is_killed
    assert rig.engines[2].node.name == "b"


def test_one_that_does_not_start_is_waited_for_where_there_is_no_other_node(rig, caplog):
    rig.up = [NODES[0]]
    for _ in range(5):
        rig.step(PLACED_S)
        rig.engines[0].next = EngineInterruptedError()
    assert not rig.engines[0].is_killed
    assert caplog.text.count("engine 1 at a (a000): not started within") == 1
    rig.engines[0].serve()
    rig.step()
    assert rig.places() == ["tcp://10.0.0.1:5000"]


def test_an_engine_with_another_checkpoint_is_refused_and_its_node_rests(rig, caplog):
    rig.engines[0].serve()
    rig.step()
    rig.engines[1].serve(checkpoint_hash="b" * 64)
    rig.step()
    assert rig.engines[1].is_killed
    assert rig.places() == ["tcp://10.0.0.1:5000"]
    assert "refused" in caplog.text
    assert rig.engines[2].node.name == "a"
    state = {node.name: node.state for node in rig.crew.node_states()}
    assert "checkpoint" in state["b"]
    rig.up.append(Node("c000", "c", "10.0.0.1", 2, 0))
    rig.engines[2].next = EngineGoneError("gone")
    rig.step()
    assert rig.engines[3].node.name == "c"


def test_another_kind_of_processor_is_told_once(rig, caplog):
    rig.engines[0].serve()
    rig.engines[1].serve(processor="another")
    rig.step()
    rig.engines[1].next = EngineInterruptedError("killed")
    rig.step()
    rig.engines[1].serve(processor="another")
    rig.step()
    assert len(rig.places()) == 2
    assert caplog.text.count("another kind of processor") == 1


def test_when_every_node_fails_before_any_has_served_there_is_no_hope(rig):
    for engine in rig.engines:
        engine.next = Report("failed", 1, reason="E_NO_CHECKPOINT: nothing there")
    rig.step()
    assert "E_NO_CHECKPOINT" in rig.crew.failure
    assert all(engine.is_killed for engine in rig.engines)


def test_a_failure_after_others_have_served_is_tried_again(rig):
    rig.engines[0].serve()
    rig.step()
    for engine in rig.engines:
        engine.next = Report("failed", 1, reason="E_NO_CHECKPOINT: nothing there")
    rig.step()
    assert not rig.crew.failure
    before = len(rig.engines)
    rig.step(FAILED_AGAIN_S)
    assert len(rig.engines) > before


def test_draining_starts_others_first_then_lets_the_engine_leave(rig):
    rig.serve_all()
    rig.crew.drain("a000")
    rig.step()
    assert rig.places() == ["tcp://10.0.0.1:5001"], "a drained node takes no new tracks"
    assert not rig.engines[0].is_told
    assert rig.engines[2].node.name == "b"
    rig.engines[2].serve()
    rig.step()
    assert rig.engines[0].is_told
    assert not rig.engines[0].is_killed
    rig.engines[0].is_left = True
    rig.step()
    assert rig.engines[0].is_killed
    assert {node.name: node.state for node in rig.crew.node_states()} == {"a": "drained", "b": "in use"}
    rig.crew.undrain("a000")
    rig.crew.scale(3)
    rig.step()
    assert rig.engines[3].node.name == "a"


def test_draining_does_not_wait_for_ever(rig):
    rig.serve_all()
    rig.crew.drain("a000")
    rig.step()
    rig.step(SILENT_S - 1)
    assert not rig.engines[0].is_told
    rig.engines[2].next = Report("loading", 7)
    for _ in range(int(DRAIN_PATIENCE_S)):
        rig.step(1.0)
    assert rig.engines[0].is_told


def test_one_that_does_not_take_leave_is_ended(rig):
    rig.serve_all()
    rig.crew.scale(1)
    rig.step()
    told = next(engine for engine in rig.engines if engine.is_told)
    assert not told.is_killed
    rig.step(LEAVE_S + 1)
    assert told.is_killed


def test_a_dismissed_crew_is_told_and_ended(rig):
    rig.serve_all()
    assert not rig.crew.dismiss()
    assert rig.places() == []
    for engine in rig.engines:
        assert engine.is_told
        engine.is_left = True
    assert rig.crew.dismiss()
    assert all(engine.is_killed for engine in rig.engines)


def test_missing_resources_are_told_once_and_waited_for(caplog):
    rig = Rig(wanted=6)
    rig.step()
    rig.serve_all()
    for _ in range(int(2 * SHORTAGE_TOLD_S)):
        rig.step(1.0)
    assert caplog.text.count("2 more engines are wanted") == 1
    assert len(rig.places()) == 4
    rig.up.append(Node("c000", "c", "10.0.0.1", 2, 0))
    rig.step()
    assert len(rig.engines) == 6
    assert not rig.crew.shortage


def test_a_node_that_tracks_cannot_get_to_has_no_engines():
    rig = Rig(unfit=lambda node: "far away" if node.name == "a" else "")
    rig.step()
    assert [engine.node.name for engine in rig.engines] == ["b", "b"]
    assert rig.crew.node_states()[0].state == "far away"


def test_every_question_tells_who_is_allowed():
    allowed = [("x",)]
    rig = Rig(wanted=1, clients=lambda: allowed[0])
    rig.step()
    allowed[0] = ()
    rig.step()
    assert rig.engines[0].clients == [("x",), ()]


class StillDesk:
    def __init__(self):
        self.orders, self.states = [], []

    def visit(self, state):
        self.states.append(state)
        orders, self.orders = self.orders, []
        return orders


def test_a_fleet_goes_on_after_a_failure_and_carries_out_orders(monkeypatch, caplog):
    """Its thread is a thread of its own: the clock is real here."""
    rig = Rig()
    rig.crew._clock = crew_module.time.monotonic
    desk, failures = StillDesk(), [RuntimeError("no head node"), RuntimeError("no head node")]
    nodes = rig.nodes
    rig.nodes = lambda: nodes() if not failures else (_ for _ in ()).throw(failures.pop())  # type: ignore[method-assign]
    fleet = RayFleet(rig.crew, desk, "tcp://10.0.0.1:47800", poll_s=0.01)
    order = Order("scale", "3")
    desk.orders.append(order)
    deadline = crew_module.time.monotonic() + 30
    while not (desk.states and order.id in desk.states[-1].done):
        assert crew_module.time.monotonic() < deadline
        crew_module.time.sleep(0.01)
    assert desk.states[-1].wanted == 3
    assert len(desk.states[-1].engines) == 3
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1
    for engine in rig.engines:
        engine.serve()
        engine.is_left = True
    assert fleet.wait() == ""
    fleet.close()
    assert all(engine.is_killed for engine in rig.engines)
