# SPDX-License-Identifier: Apache-2.0
"""Connections that end in the middle of things: what the server loses by it, and what is sent again."""

from __future__ import annotations

import contextlib
import math
import threading
import time

import numpy as np
import psutil
import pytest
import zmtp
from track_rig import music
from wire import CONFIG, ServerProcess, WireClient

from engine_server.serve import client as client_module
from engine_server.serve.endpoint import audio_endpoint
from engine_server.serve.server import Server
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode

FRAMES = 60
SOURCE = music(FRAMES)
HEARTBEAT = encode(Packet(m.Ping(0, 0, 0, 0)))
STRIKES = 40
MIB = 2**20


@pytest.fixture(scope="module")
def server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


@pytest.fixture(scope="module")
def expected(tiny):
    return render(Engine(tiny), SOURCE, 48_000, build_table({"denoise": 0.6}, FRAMES), CONFIG)


def bounced(server):
    with WireClient(server.endpoint) as client:
        client.hello()
        return client.bounce(SOURCE, frames=FRAMES)


def ports_of(server):
    return [int(where.rpartition(":")[2]) for where in (server.endpoint, audio_endpoint(server.endpoint))]


@pytest.mark.parametrize("number", [0, 1], ids=["control", "audio"])
def test_connections_that_break_while_much_waits_neither_end_the_server_nor_stay(server, expected, number):
    """ZeroMQ's own bound on what waits, together with its heartbeats, ends the process then (libzmq 4.3.5)."""
    process, port = psutil.Process(server.process.pid), ports_of(server)[number]
    before = process.num_fds()
    flood = (zmtp.message([b"odd"]) * 20 + zmtp.PING) * 100
    for _ in range(STRIKES):
        peer = zmtp.connect(port, b"somebody")
        with contextlib.suppress(ConnectionError):
            peer.sendall(flood)
        zmtp.break_off(peer)
    assert np.array_equal(bounced(server), expected)
    deadline = time.monotonic() + 10.0
    while process.num_fds() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.num_fds() <= before


def test_a_peer_that_floods_is_cut_off_before_it_fills_memory(server, expected):
    process = psutil.Process(server.process.pid)
    bounced(server)
    flood = zmtp.message(HEARTBEAT) * 1000
    grown = []
    for number in range(3):  # how much comes before it is cut off depends on the machine's other work, too
        before = process.memory_info().rss
        with zmtp.connect(ports_of(server)[0], b"c" + bytes(15) + bytes([number])) as peer:
            with pytest.raises(ConnectionError):  # noqa: PT012
                for _ in range(10_000):
                    peer.sendall(flood)
                raise AssertionError("ten million messages were taken")
            assert zmtp.is_cut_off(peer)
        assert np.array_equal(bounced(server), expected)
        grown.append(process.memory_info().rss - before)
    assert min(grown) < 192 * MIB


def test_windows_that_were_lost_with_their_connection_are_sent_again_when_the_client_says_so(tiny, monkeypatch):
    monkeypatch.setattr(client_module, "RESEND_AFTER_S", math.inf)
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with WireClient(server.endpoint) as client:
            client.hello()
            client.send(m.Begin(1, "stream", 0, 0, 0, True))
            client.feed(1, 0, SOURCE)
            first = client.wait_for(m.Window, frame=0)
            client.break_audio()
            client.ping(1, 0)
            with pytest.raises(TimeoutError):
                client.wait_for(m.Window, timeout_s=1.0, frame=0)
            client.send(m.Resend())
            assert np.array_equal(client.wait_for(m.Window, frame=0).audio, first.audio)
    finally:
        server.stop()
        thread.join()
