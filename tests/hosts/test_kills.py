# SPDX-License-Identifier: Apache-2.0
"""A few of the faults of `python -m tests.soak`, always the same ones: servers and hosts killed, a broken network, guests.

No time is asserted but that everything ends: `make soak` measures how long the way back takes.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

import numpy as np
import pytest
from wire import WireClient

from shared_protocol import messages as m
from tests.soak.connection import Weather
from tests.soak.fleets import FleetServer
from tests.soak.guests import POLITE
from tests.soak.leaks import marked_processes
from tests.soak.long_soak import run_long_soak
from tests.soak.music import Music
from tests.soak.plans import FLEET_TIMEOUT_S, TIMEOUT_S, Fault, Plan
from tests.soak.proxy import Proxy
from tests.soak.scenarios import Stage, run_plan
from tests.soak.servers import Server
from tests.soak.starter import Starter

SEED = 12
KILLS = 10
SOAK_MIN = 0.3
NO_LIMIT_S = 25.0
"""For the way back, where time is not what is tested."""
STEPS = 12
LET_GO_S = 20.0


@pytest.fixture(scope="module")
def starter():
    made = Starter()
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage_music(tiny_folder):
    return Music(tiny_folder)


@pytest.fixture
def stage(starter, tiny_folder, stage_music, tmp_path):
    with Server(starter, tiny_folder, tmp_path) as server, Proxy(server.ports, seed=SEED) as proxy:
        yield Stage(server, proxy, stage_music, tmp_path, reconnect_limit_s=NO_LIMIT_S)


def make_plan(way, *faults):
    return Plan("test", 0, way, steps=STEPS, block=512, timeout_s=TIMEOUT_S, faults=faults)


def test_ten_kills_at_random_places_of_one_bounce_change_no_bit(stage):
    rng = random.Random(SEED)
    places = sorted([0.0, *(rng.uniform(0.05, 0.9) for _ in range(KILLS - 1))])
    kills = [Fault("kill", at, delay_s=rng.uniform(0.0, 0.2), pause_s=rng.uniform(0.0, 0.5)) for at in places]
    outcome = run_plan(make_plan("dawdreamer", *kills), stage)
    assert outcome.violations == []
    assert outcome.verdict == "same bits"
    assert len(outcome.strikes) == KILLS


def test_a_commit_whose_server_dies_has_the_same_bits(stage):
    outcome = run_plan(make_plan("commit", Fault("kill", 0.33, delay_s=0.1, pause_s=0.3)), stage)
    assert outcome.violations == []
    assert outcome.verdict == "same bits; same bits"
    assert len(outcome.strikes) == 1


def test_a_broken_network_changes_no_bit(stage):
    faults = (
        Fault("half-close up", 0.1, 0.0),
        Fault("stall", 0.3, 0.0, 1.0, weather=Weather(is_stalled=True)),
        Fault("reset", 0.4, 0.0),
        Fault("throttle", 0.5, 0.0, 1.0, weather=Weather(bytes_per_s=100_000)),
        Fault("cut", 0.6, 0.0, 3.5),
        Fault("half-close down", 0.8, 0.0),
    )
    outcome = run_plan(make_plan("pedalboard", *faults), stage)
    assert outcome.violations == []
    assert outcome.verdict == "same bits"
    assert len(outcome.strikes) == len(faults)


def test_an_engine_that_never_comes_back_ends_the_bounce_dry_and_its_receipt_says_so(stage):
    plan = Plan("test", 0, "dawdreamer", STEPS, 512, timeout_s=3.0, faults=(Fault("kill", 0.5, 0.0, float("inf")),))
    outcome = run_plan(plan, stage)
    assert outcome.violations == []
    assert outcome.verdict.startswith("dry from")


def test_a_killed_engine_behind_a_gateway_changes_no_bit(starter, tiny_folder, stage_music, tmp_path):
    """The track goes on with the other; the gateway starts the one that died again."""
    plan = make_plan("dawdreamer", Fault("kill worker", 0.4, 0.0))
    plan = replace(plan, phase="workers", timeout_s=FLEET_TIMEOUT_S)
    with FleetServer(starter, tiny_folder, tmp_path) as fleet, Proxy(fleet.ports, seed=SEED) as proxy:
        stage = Stage(fleet, proxy, stage_music, tmp_path, reconnect_limit_s=NO_LIMIT_S)
        outcome = run_plan(plan, stage)
        assert outcome.violations == []
        assert outcome.verdict == "same bits"
        assert len(outcome.strikes) == 1
        assert fleet.complaints() == []


def test_killed_hosts_leave_neither_connections_nor_processes(stage, monkeypatch):
    monkeypatch.setenv("DEMON_SOAK_RUN", mark := "test_kills")
    for at, way in ((0.3, "dawdreamer"), (0.6, "pedalboard")):
        plan = Plan("clients", 0, way, STEPS, 512, TIMEOUT_S, (Fault("kill client", at, 0.0),))
        outcome = run_plan(plan, stage)
        assert outcome.violations == []
        assert outcome.verdict == "killed, then same bits"
    assert marked_processes(mark) == []


def test_a_connection_whose_client_came_back_by_another_is_let_go(stage):
    """On a slow network a client gives up and opens a new connection while bytes of the old one are still on their way."""
    piece = m.Reference("0" * 64, 48_000, 65_536, 0, 65_536)
    silence = np.zeros((2, piece.count), dtype=np.float32)
    for is_slow in (True, False):
        with WireClient(stage.proxy.endpoint, routing_id=b"c" + bytes(16)) as client:
            client.hello()
            if is_slow:
                stage.proxy.set_weather(Weather(bytes_per_s=100_000))
                for _ in range(6):  # large ones: small messages are read to their end
                    client.send(piece, silence)
                time.sleep(0.5)
    stage.proxy.clear()
    deadline = time.monotonic() + LET_GO_S
    while (left := stage.server.held().connections) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == 0


def test_tracks_that_come_and_go_leave_nothing(stage):
    report = run_long_soak(stage.server, stage.music, stage.folder, minutes=SOAK_MIN, seed=SEED, kinds=POLITE)
    assert report.violations == []
    assert report.visits.get("plugin") == 1
    assert sum(report.visits.values()) > 4
