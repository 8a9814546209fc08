# SPDX-License-Identifier: Apache-2.0
"""Several engines behind one endpoint: who goes where, and what happens when one of them dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import zmq
import zmtp
from wire import ServerProcess, WireClient

from engine_server.serve import fleet as fleet_module
from engine_server.serve.endpoint import audio_endpoint, engine_endpoint
from engine_server.serve.gateway import PATIENCE_S, REFUSED_S, UNSEEN_S, Gateway, Place
from engine_server.serve.report import read_report
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode

FRAMES, FRAME = 120, 1920


class StillFleet:
    """Places that a test sets."""

    def __init__(self, *places):
        self.now = list(places)

    def places(self):
        return self.now


def place(number, tracks=0, capacity=64):
    return Place(f"tcp://*:{5000 + number}", "", tracks, capacity)


@pytest.fixture
def gateway():
    """A gateway that serves, and its fleet."""
    gateway, fleet = Gateway("tcp://127.0.0.1:*"), StillFleet()
    thread = threading.Thread(target=gateway.run, args=(fleet,))
    thread.start()
    yield gateway, fleet
    gateway.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def still_gateway():
    """A gateway that is asked where tracks go, at times of the test's own."""
    gateway = Gateway("tcp://127.0.0.1:*")
    yield gateway
    gateway._sockets.close()


def answered(gateway, routing_id, places, now):
    """Where a hello is sent; None if it is refused."""
    before = gateway._redirects
    gateway._answer(routing_id, places, now)
    return gateway._sent[routing_id][0] if gateway._redirects > before else None


def sent_to(gateway, client):
    client.send(client.hello_header())
    return client.wait_for(m.Redirect).header.endpoint


def test_tracks_are_shared_out_evenly_also_before_the_engines_report_them(gateway):
    served, fleet = gateway
    fleet.now = [place(0), place(1), place(2)]
    clients = [WireClient(served.endpoint) for _ in range(6)]
    places = [sent_to(served, client) for client in clients]
    for client in clients:
        client.close()
    assert sorted(places) == sorted([p.endpoint for p in fleet.now] * 2)


def test_an_engine_with_fewer_tracks_comes_first(gateway):
    served, fleet = gateway
    fleet.now = [place(0, tracks=3), place(1, tracks=1)]
    with WireClient(served.endpoint) as client:
        assert sent_to(served, client) == fleet.now[1].endpoint


def test_a_track_that_comes_back_goes_where_it_was_while_that_engine_is_there(gateway):
    served, fleet = gateway
    fleet.now = [place(0), place(1)]
    with WireClient(served.endpoint) as client:
        first = sent_to(served, client)
        fleet.now = [place(0, tracks=9), place(1, tracks=9)]
        assert sent_to(served, client) == first
        fleet.now = [p for p in fleet.now if p.endpoint != first]
        assert sent_to(served, client) == fleet.now[0].endpoint


def test_when_all_are_full_the_track_is_told(gateway):
    served, fleet = gateway
    fleet.now = [place(0, tracks=2, capacity=2), place(1, tracks=3, capacity=3)]
    with WireClient(served.endpoint) as client:
        client.send(client.hello_header())
        error = client.wait_for(m.Error).header
        assert error.code == "E_BUSY"
        assert "5 tracks" in error.message


def test_a_hello_waits_for_an_engine_that_starts(gateway):
    served, fleet = gateway
    with WireClient(served.endpoint) as client:
        client.send(client.hello_header())
        with pytest.raises(TimeoutError):
            client.wait_for(m.Redirect, timeout_s=PATIENCE_S / 10)
        fleet.now = [place(7)]
        assert client.wait_for(m.Redirect).header.endpoint == fleet.now[0].endpoint


def test_only_hellos_are_served(gateway):
    served, _ = gateway
    with WireClient(served.endpoint) as client:
        client.ping()
        assert client.wait_for(m.Error).header.code == "E_UNKNOWN_TRACK"
        client.send_raw([b"\xc1"])
        assert client.wait_for(m.Error).header.code == "E_MALFORMED"


def test_a_track_on_its_way_stops_counting_when_it_should_have_been_reported(still_gateway):
    places = [place(0, capacity=1)]
    assert answered(still_gateway, b"a", places, 0.0)
    assert answered(still_gateway, b"b", places, 1.0) is None
    assert answered(still_gateway, b"b", places, UNSEEN_S + 1.0)


def test_the_tracks_that_fill_an_engine_go_back_to_it(still_gateway):
    """Also all at once, after a cut connection: each takes the place that it has."""
    tracks = [b"%d" % number for number in range(64)]
    empty, full = place(0), place(0, tracks=64)
    for track in tracks:
        assert answered(still_gateway, track, [empty], 0.0)
    assert answered(still_gateway, tracks[0], [full, place(1)], 60.0) == full.endpoint
    for track in tracks[1:]:
        assert answered(still_gateway, track, [full, place(1)], 60.0) == full.endpoint
    assert answered(still_gateway, b"another", [full], 60.0) is None
    for track in tracks:  # cut at once once more
        assert answered(still_gateway, track, [full, place(1, tracks=64)], 61.0) == full.endpoint


def test_a_track_whose_engine_others_have_filled_is_sent_there_once(still_gateway):
    """It was forgotten in its silence. While there is no room anywhere, it is not sent away from what may be its own place."""
    engine, other, full = place(0), place(1), place(0, tracks=64)
    assert answered(still_gateway, b"track", [engine], 0.0)
    assert answered(still_gateway, b"track", [full, other], 60.0) == full.endpoint
    assert answered(still_gateway, b"track", [full, other], 62.0) == other.endpoint
    assert answered(still_gateway, b"track", [full, other], 64.0) == other.endpoint

    assert answered(still_gateway, b"patient", [engine], 0.0)
    now = 60.0
    while now < 60.0 + 2 * REFUSED_S:
        assert answered(still_gateway, b"patient", [full, place(1, tracks=64)], now) == full.endpoint
        now += 2.0
    assert answered(still_gateway, b"patient", [full, other], now) == other.endpoint


def test_nothing_comes_in_by_a_gateways_audio_port(still_gateway):
    """Nobody would take it: it would stay in memory, 4 MiB a message."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sender:
        sender.setsockopt(zmq.LINGER, 0)
        with sender.get_monitor_socket(zmq.EVENT_DISCONNECTED) as cut:
            sender.connect(audio_endpoint(still_gateway.endpoint))
            for _ in range(8):
                sender.send(bytes(2**20))
            assert cut.poll(30_000), "who sends audio to a gateway stays connected"
            assert not still_gateway._sockets.audio.poll(0)
            sender.disable_monitor()


def test_a_peer_that_floods_a_gateway_is_cut_off(gateway):
    served, fleet = gateway
    fleet.now = [place(0)]
    flood = zmtp.message(encode(Packet(m.Ping(0, 0, 0, 0)))) * 1000
    with zmtp.connect(int(served.endpoint.rpartition(":")[2]), b"c" + bytes(16)) as peer:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                peer.sendall(flood)
        assert zmtp.is_cut_off(peer)
    with WireClient(served.endpoint) as client:
        assert sent_to(served, client) == fleet.now[0].endpoint


def test_tracks_that_an_engine_reports_already_do_not_count_twice(gateway):
    """One of two engines has died, and all of its tracks come at once: there is room for them."""
    served, fleet = gateway
    fleet.now = [place(0, tracks=25, capacity=50)]
    for k in range(25):
        with WireClient(served.endpoint) as client:
            assert sent_to(served, client) == fleet.now[0].endpoint
        fleet.now = [place(0, tracks=26 + k, capacity=50)]
    with WireClient(served.endpoint) as client:
        client.send(client.hello_header())
        assert client.wait_for(m.Error).header.code == "E_BUSY"


def test_a_fault_of_ours_does_not_end_the_gateway(gateway, monkeypatch, caplog):
    served, fleet = gateway
    fleet.now = [place(0)]
    monkeypatch.setattr(served, "_report", lambda places: 1 / 0)
    with WireClient(served.endpoint) as client:
        client.send(m.Status())
        assert sent_to(served, client) == fleet.now[0].endpoint
    assert "ZeroDivisionError" in caplog.text


def test_an_engine_that_cannot_be_started_is_tried_again_and_again(monkeypatch, caplog):
    """There may be no memory for another process, for a while."""
    starts = []

    def popen(command, **_how):
        starts.append(command)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(fleet_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fleet_module.subprocess, "Popen", popen)
    engine = fleet_module.EngineProcess(["engine"], {})
    deadline = time.monotonic() + 30
    while len(starts) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.close()
    assert len(starts) >= 3
    assert "Cannot allocate memory" in caplog.text


TALKER = """
import time
time.sleep({load_s})
print("serving tcp://127.0.0.1:5000 model hash backend", flush=True)
while True:
    print("tracks 3 64", flush=True)
    time.sleep(0.01)
"""


@contextlib.contextmanager
def talking_engine(monkeypatch, load_s=0.0, **times):
    """An engine that only tells how many tracks it has."""
    for name, value in times.items():
        monkeypatch.setattr(fleet_module, name, value)
    engine = fleet_module.EngineProcess([sys.executable, "-c", TALKER.format(load_s=load_s)], dict(os.environ))
    try:
        yield engine
    finally:
        if engine.pid:
            os.kill(engine.pid, signal.SIGKILL)  # it does not look at its standard input
        engine.close()


def wait_until(condition, *, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_engine_that_says_nothing_is_no_place_until_it_speaks_again(monkeypatch):
    with talking_engine(monkeypatch, LISTEN_S=0.05, SILENT_S=0.5, LOST_S=1e6) as engine:
        wait_until(lambda: engine.place)
        pid, where = engine.pid, engine.place
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: engine.place is None)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: engine.place)
        assert (engine.pid, engine.place) == (pid, where)


def test_an_engine_that_says_nothing_for_long_is_killed_and_started_again(monkeypatch, caplog):
    with talking_engine(monkeypatch, LISTEN_S=0.05, SILENT_S=0.5, LOST_S=1.0) as engine:
        wait_until(lambda: engine.place)
        pid = engine.pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: engine.pid not in (pid, None) and engine.place)
        assert f"the engine at process {pid} has said nothing for 1 s" in caplog.text
        assert not os.path.exists(f"/proc/{pid}")


def test_an_engine_may_be_silent_for_long_while_it_loads(monkeypatch):
    with talking_engine(monkeypatch, load_s=3.0, LISTEN_S=0.05, LOST_S=1.0) as engine:
        wait_until(lambda: engine.pid)
        pid = engine.pid
        wait_until(lambda: engine.place)
        assert engine.pid == pid


def test_engines_listen_on_the_pairs_of_ports_after_the_gateways():
    assert engine_endpoint("tcp://127.0.0.1:47800", 0) == "tcp://127.0.0.1:47802"
    assert engine_endpoint("tcp://127.0.0.1:47800", 3) == "tcp://127.0.0.1:47808"
    assert engine_endpoint("tcp://127.0.0.1:*", 3) == "tcp://127.0.0.1:*"


@pytest.fixture(scope="module")
def two_engines(tiny_folder):
    with ServerProcess(str(tiny_folder), engines=2) as process:
        yield process
        for pid in children_of(process.process.pid):
            os.kill(pid, signal.SIGCONT)  # a failed test may leave one that is stopped, and would stay


@pytest.fixture(scope="module")
def source():
    t = np.arange(FRAMES * FRAME) / 48_000
    return np.stack([0.3 * np.sin(2 * np.pi * 110 * t), 0.2 * np.sin(2 * np.pi * 330 * t)]).astype(np.float32)


def children_of(pid):
    """The children of a process, whichever of its threads has started them."""
    children = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/task/{thread}/children") as names,
        ):  # a thread may have ended
            children += [int(name) for name in names.read().split()]
    return children


def wait_for_engines(served, pids):
    """Until two engines serve, none of which is one of these processes."""
    with WireClient(served.endpoint) as client:

        def do_serve():
            client.send(m.Status())
            report = read_report(client.wait_for(m.State).header)
            time.sleep(0.5)  # it answers no more than five a second
            return len(report.engines) == 2 and not pids & set(children_of(served.process.pid))

        wait_until(do_serve, timeout_s=120)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_an_engine_lost_in_mid_bounce_is_replaced_and_the_bits_are_the_same(two_engines, source, tiny, blow):
    """The track finds the other engine, or the new one in its place."""
    wait_for_engines(two_engines, set())
    config = m.make_config(prompt="strings", seed=7)
    expected = render(Engine(tiny), source, 48_000, build_table({"denoise": 0.6}, FRAMES), config)
    padded = np.pad(source, ((0, 0), (0, 200 * FRAME)))

    def feed(client, first):
        for frame in range(first, FRAMES + 160, 32):
            client.feed(1, frame, padded[:, frame * FRAME : (frame + 32) * FRAME])

    def windows(client, position, until):
        parts = []
        while position < until:
            window = client.wait_for(m.Window, epoch=1)
            if window.header.frame == position:
                parts.append(window.audio)
                position += window.header.count
                client.ping(1, position)
        return parts

    with WireClient(two_engines.endpoint) as client:
        retain = client.hello().header.retain
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        feed(client, 0)
        parts = windows(client, 0, 30)
        port = int(client._endpoint.rpartition(":")[2])
        victim = owner_of(port, children_of(two_engines.process.pid))
        os.kill(victim, blow)
        position = sum(part.shape[1] for part in parts) // FRAME
        client.hello()
        start = max(0, position - retain)
        client.send(m.Begin(1, "stream", 0, start, position, True))
        feed(client, start)
        parts += windows(client, position, FRAMES)
    assert np.array_equal(np.concatenate(parts, axis=1)[:, : FRAMES * FRAME], expected)
    wait_for_engines(two_engines, {victim})


def owner_of(port, pids):
    """The process that listens on a port."""
    with open("/proc/net/tcp") as table:
        inodes = {
            line.split()[9] for line in table if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        }
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:[") and target[8:-1] in inodes:
                return pid
    raise AssertionError(f"nobody listens on {port}")


def test_ctrl_c_ends_gateway_and_engines(tiny_folder):
    with ServerProcess(str(tiny_folder), engines=2) as process:
        children = children_of(process.process.pid)
        assert process.interrupt() == 0
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{pid}") for pid in children):
            assert time.monotonic() < deadline, "an engine was left behind"
            time.sleep(0.1)


def test_options_that_no_engine_can_serve_end_the_gateway_with_a_word():
    import subprocess
    import sys

    command = [sys.executable, "-m", "engine_server.cli", "serve", "--engines", "2", "--model", "/nowhere"]
    done = subprocess.run(
        [*command, "--endpoint", "tcp://127.0.0.1:*"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "E_ENGINE" in done.stderr
    assert "nowhere" in done.stderr
