# SPDX-License-Identifier: Apache-2.0
"""Engines on several Ray nodes: placed, killed, drained and lost in mid-bounce, with the same bits; keys; the command line."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time

import numpy as np
import pytest
import zmq
from typer.testing import CliRunner
from wire import WireClient

from engine_server.cli import app
from engine_server.serve.keys import KeyStore, make_pair
from engine_server.status.ask import Keys, ask, ask_all
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.errors import DemonError

pytest.importorskip("ray", reason="Ray is not installed: pip install --editable '.[cluster]'")
import torch
from cluster_rig import FRAME, Bounce, ClusterGateway, RayNodes, engine_at, names_of, serving

FRAMES, LANE = 120, 0.6
THREADS = torch.get_num_threads()
"""Of an engine: as many as compute what is expected here."""


@pytest.fixture(scope="module")
def nodes():
    """Two nodes, each with room for two engines."""
    made = RayNodes("alpha", "beta", cpus=2 * THREADS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(nodes, tiny_folder):
    with ClusterGateway(nodes, tiny_folder, engines=2, cpus=THREADS) as process:
        yield process


@pytest.fixture(scope="module")
def source():
    t = np.arange(FRAMES * FRAME) / 48_000
    return np.stack([0.3 * np.sin(2 * np.pi * 110 * t), 0.2 * np.sin(2 * np.pi * 330 * t)]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(tiny, source):
    config = m.make_config(prompt="strings", seed=7)
    return render(Engine(tiny), source, 48_000, build_table({"denoise": LANE}, FRAMES), config)


def two_serve(state):
    return len(serving(state)) == len(state.engines) == 2


def test_engines_are_placed_on_different_nodes(nodes, gateway):
    state = nodes.wait_for(two_serve)
    assert names_of(state) == ["alpha", "beta"]
    assert all(engine.endpoint.startswith("tcp://127.0.0.1:") for engine in state.engines)
    assert next(node.state for node in state.nodes if node.name == "head") == "too small"


def test_an_engine_killed_in_mid_bounce_is_replaced_and_the_bits_are_the_same(nodes, gateway, source, expected):
    before = nodes.wait_for(two_serve)
    with WireClient(gateway.endpoint) as client:
        bounce = Bounce(client, source, LANE)
        bounce.take(30)
        engine, _ = engine_at(before, client._endpoint)
        os.kill(engine.pid, signal.SIGKILL)
        bounce.go_on()
        assert np.array_equal(bounce.finish(), expected)
    after = nodes.wait_for(lambda state: two_serve(state) and engine.pid not in [one.pid for one in state.engines])
    assert names_of(after) == ["alpha", "beta"]


def test_a_node_drained_in_mid_bounce_is_left_and_the_bits_are_the_same(nodes, gateway, source, expected):
    before = nodes.wait_for(two_serve)
    with WireClient(gateway.endpoint) as client:
        bounce = Bounce(client, source, LANE)
        bounce.take(30)
        engine, node = engine_at(before, client._endpoint)
        draining = gateway.begin("drain", node)
        bounce.wait_for_farewell()
        bounce.go_on()
        assert engine_at(nodes.state(), client._endpoint)[1] != node
        assert np.array_equal(bounce.finish(), expected)
    said = draining.communicate(timeout=240)
    assert (draining.returncode, "is drained" in said[1]) == (0, True), said
    after = nodes.state()
    assert node not in names_of(after)
    assert next(row for row in after.nodes if row.name == node).state == "drained"
    assert not os.path.exists(f"/proc/{engine.pid}"), "something is left on the drained node"
    assert gateway.run("undrain", node)[0] == 0


def test_there_are_as_many_engines_as_are_asked_for(nodes, gateway):
    assert gateway.run("scale", "1")[0] == 0
    nodes.wait_for(lambda state: len(state.engines) == 1)
    status, said = gateway.run("scale", "2")
    assert (status, "2 engines are wanted" in said) == (0, True), said
    assert names_of(nodes.wait_for(two_serve)) == ["alpha", "beta"]


def test_status_shows_nodes_and_engines(nodes, gateway):
    state = nodes.wait_for(two_serve)
    status, said = gateway.run("status")
    assert status == 0
    for text in (gateway.endpoint, state.checkpoint_hash[:12], "alpha", "beta", "serving", "0 of 64"):
        assert text in said
    for engine in state.engines:
        assert str(engine.pid) in said
        assert engine.endpoint in said


def test_unknown_nodes_and_second_gateways_are_refused_with_a_word(gateway):
    status, said = gateway.run("drain", "gamma")
    assert status == 1
    assert "E_CLUSTER" in said
    assert "alpha" in said
    status, said = gateway.run("start", "--engines", "1", "--endpoint", "tcp://127.0.0.1:*")
    assert status == 1
    assert "serves in this Ray cluster already" in said


def test_a_node_lost_in_mid_bounce_costs_no_bit(nodes, gateway, source, expected):
    before = nodes.wait_for(two_serve)
    with WireClient(gateway.endpoint) as client:
        bounce = Bounce(client, source, LANE)
        bounce.take(30)
        _, node = engine_at(before, client._endpoint)
        nodes.lose(node)
        assert np.array_equal(bounce.finish(), expected)
    remaining = "beta" if node == "alpha" else "alpha"
    nodes.wait_for(lambda state: two_serve(state) and names_of(state) == [remaining] * 2)
    nodes.add(node)


def test_ctrl_c_takes_leave_ends_every_engine_and_leaves_the_cluster_alone(nodes, gateway):
    state = nodes.wait_for(two_serve)
    with WireClient(gateway.endpoint) as client:
        client.hello()
        assert gateway.end() == 0
        client.wait_for(m.Closing)
    wait_until_gone(engine.pid for engine in state.engines)
    status, said = gateway.run("status")
    assert status == 1
    assert "no gateway serves" in said, said


def wait_until_gone(pids):
    deadline = time.monotonic() + 30
    for pid in pids:
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline, "an engine was left behind"
            time.sleep(0.1)


def test_an_engine_with_another_checkpoint_is_refused(nodes, tiny_folder, tmp_path):
    """As if one node had another checkpoint at the same path: here it changes between the start of one and the next."""
    from tiny_checkpoint import build_tiny_checkpoint

    build_tiny_checkpoint(tmp_path / "other", decoder_width=64)
    model = tmp_path / "model"
    model.symlink_to(tiny_folder)
    with ClusterGateway(nodes, model, engines=1, cpus=THREADS) as gateway:
        first = nodes.wait_for(lambda state: len(serving(state)) == 1)
        model.unlink()
        model.symlink_to(tmp_path / "other")
        gateway.run("scale", "2")
        state = nodes.wait_for(lambda state: any("refused" in node.state for node in state.nodes))
        assert [engine.pid for engine in serving(state)] == [engine.pid for engine in first.engines]
        assert "hash" in gateway.log()


def test_a_model_that_is_on_no_node_ends_the_gateway_with_a_word(nodes):
    with pytest.raises(AssertionError) as raised:
        ClusterGateway(nodes, "/nowhere", engines=2, cpus=THREADS)
    assert "E_ENGINE" in str(raised.value)
    assert "nowhere" in str(raised.value)
    assert "alpha" in str(raised.value)


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return probe.getsockname()[0]


def test_beyond_loopback_only_allowed_keys_get_to_an_engine_and_a_revoked_one_loses_it(
    nodes, tiny_folder, tmp_path, source, expected, monkeypatch
):
    address = own_address()
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    store, pair, stranger = KeyStore(tmp_path / "demon-bridge" / "keys"), make_pair(), make_pair()
    store.allow("laptop", pair.public)
    options = {"endpoint": f"tcp://{address}:*", "environment": {"XDG_CONFIG_HOME": str(tmp_path)}}
    with ClusterGateway(nodes, tiny_folder, engines=1, cpus=THREADS, **options) as gateway:
        gateway_key = store.server().public
        with WireClient(gateway.endpoint, keys=Keys(gateway_key, pair)) as client:
            bounce = Bounce(client, source, LANE)
            engine, node = engine_at(nodes.wait_for(lambda state: len(serving(state)) == 1), client._endpoint)
            assert client._endpoint.startswith(f"tcp://{address}:")
            node_keys = KeyStore(nodes.settings_of(node) / "demon-bridge" / "keys")
            assert client._server_key == node_keys.server().public != gateway_key
            assert not node_keys.clients_file.exists()
            bounce.take(30)
            monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
            reports = [answer.report for answer in ask_all(gateway.endpoint)]
            assert [len(report.track_reports) for report in reports[1:]] == [1], (
                "the gateway's key opens its engines, too"
            )
            with pytest.raises(DemonError, match="does not allow this key"):
                ask(engine.endpoint, Keys(client._server_key, stranger))
            assert np.array_equal(bounce.finish(), expected)
            store.revoke("laptop")
            assert_shut_out(client)
        said = gateway.log()
        assert pair.secret not in said
        assert store.server().secret not in said


def assert_shut_out(client):
    """The connection is cut, and ZeroMQ makes no other with that key: nothing can be sent any more."""
    client._control.setsockopt(zmq.SNDTIMEO, 1000)
    with pytest.raises(zmq.Again):
        keep_pinging(client, seconds=30.0)


def keep_pinging(client, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.ping()
        time.sleep(0.1)


def test_engines_get_gpus_and_go_only_where_there_are_any(nodes, tiny_folder):
    """Logical GPUs: what an engine does with one is asked where there are real ones (docs/gpu-queue.md)."""
    nodes.add("gamma", num_gpus=1)
    with ClusterGateway(nodes, tiny_folder, engines=2, cpus=THREADS, options=["--gpus", "1"]) as gateway:
        state = nodes.wait_for(lambda state: bool(state.shortage))
        assert names_of(state) == ["gamma"]
        assert [engine.devices for engine in state.engines] == ["0"]
        assert "GPU" in state.shortage
        assert "1 more engines" in gateway.log()


def run(*arguments):
    done = CliRunner().invoke(app, ["cluster", *arguments])
    assert done.exit_code == 1
    return done.output


def test_without_ray_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = run("status")
    assert "E_RAY" in said
    assert "pip install" in said


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "auto"])
def test_where_no_cluster_is_the_command_says_how_to_start_one(address, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if address == "auto" and shutil.which("pgrep"):
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set())
    said = run("status", "--address", address)
    assert "E_CLUSTER" in said
    assert "ray start" in said
