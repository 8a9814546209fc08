# SPDX-License-Identifier: Apache-2.0
"""Another engine in the place of the one that serves: no track is lost, and no bit changes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from track_rig import music
from wire import CONFIG, ServerProcess, WireClient

from engine_server.serve import server as server_module
from engine_server.serve.server import Server
from engine_server.serve.worker import Event, Reloaded
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.errors import DemonError

FRAMES, FRAME = 120, 1920
SOURCE = music(FRAMES)
PADDED = np.pad(SOURCE, ((0, 0), (0, 200 * FRAME)))


@pytest.fixture
def server(tiny):
    """A server that serves, in this process."""
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.stop()
    thread.join(60)
    assert not thread.is_alive()


def feed(client, first):
    for frame in range(first, FRAMES + 160, 32):
        client.feed(1, frame, PADDED[:, frame * FRAME : (frame + 32) * FRAME])


def take(client, parts, until):
    """Windows in order, until so many frames are there."""
    while (position := sum(part.shape[1] for part in parts) // FRAME) < until:
        window = client.wait_for(m.Window, epoch=1)
        if window.header.frame == position:
            parts.append(window.audio)
            client.ping(1, position + window.header.count)
    return position


def test_a_bounce_goes_on_with_the_same_bits(server, tiny):
    expected = render(Engine(tiny), SOURCE, 48_000, build_table({"denoise": 0.6}, FRAMES), CONFIG)
    with WireClient(server.endpoint) as client:
        retain = client.hello().header.retain
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        feed(client, 0)
        parts = []
        take(client, parts, 20)
        server.reload(lambda: Engine(tiny))
        assert client.wait_for(m.Closing).header.reason
        position = sum(part.shape[1] for part in parts) // FRAME
        client.hello()
        first = max(0, position - retain)
        client.send(m.Begin(1, "stream", 0, first, position, True))
        feed(client, first)
        take(client, parts, FRAMES)
    assert np.array_equal(np.concatenate(parts, axis=1)[:, : FRAMES * FRAME], expected)


@pytest.fixture
def slow_load(server, tiny):
    """Begins a reload that goes on until what is given is set."""
    goes_on = threading.Event()

    def load():
        assert goes_on.wait(60)
        return Engine(tiny)

    yield lambda: server.reload(load), goes_on
    goes_on.set()


def test_heartbeats_are_answered_while_an_engine_is_loaded(server, slow_load):
    reload, goes_on = slow_load
    with WireClient(server.endpoint) as client:
        client.hello()
        reload()
        for number in range(1, 4):
            client.ping(number=number)
            client.wait_for(m.Pong, number=number)
        goes_on.set()
        client.wait_for(m.Closing)


def test_who_waits_for_a_bounce_hears_that_an_engine_is_loaded(server, slow_load, monkeypatch):
    """Also if nothing was made of it yet; a client gives up after 20 s without a sign."""
    monkeypatch.setattr(server_module, "TELL_LOADING_EVERY_S", 0.1)
    reload, goes_on = slow_load
    with WireClient(server.endpoint) as client:
        client.hello()
        reload()
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        for _ in range(3):
            assert client.wait_for(m.Progress, epoch=1).header == m.Progress(1, 0, 0, 0)
        goes_on.set()
        client.wait_for(m.Closing)


def test_what_was_done_before_still_counts(server, tiny):
    with WireClient(server.endpoint) as client:
        client.hello()
        client.bounce(SOURCE, frames=FRAMES)
        server.reload(lambda: Engine(tiny))
        client.wait_for(m.Closing)
    assert server._worker._engine.left.generations > 0


def test_if_nothing_can_be_loaded_the_present_engine_goes_on(server):
    def load():
        raise DemonError("E_NO_CHECKPOINT", "gone")

    with WireClient(server.endpoint) as client:
        client.hello()
        server.reload(load)
        assert client.bounce(SOURCE, frames=FRAMES).shape[1] == FRAMES * FRAME
        assert not [packet for packet in client.received if isinstance(packet.header, m.Closing)]


def test_a_hello_that_crosses_a_reload_leaves_no_track_behind(tiny):
    """The new engine has greeted it before the socket thread hears of the reload, and sends it away."""
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    try:
        hello = m.Hello(3, "x", 48_000, "stream", 150, 250, "none", ["denoise"], CONFIG)
        server._greet(b"c" + bytes(16), "", None, hello)
        server._worker._take_messages()
        server._events.put(Event("", Reloaded(server._worker._engine)))
        server._take_events()
        server._worker._take_messages()
        assert not list(server._clients)
        assert not server._clients._by_audio_id
        assert server._worker._engine.tracks == {}
    finally:
        server._sockets.close()


def test_sighup_before_an_engine_is_loaded_does_not_end_the_server(tiny_folder):
    command = ["-m", "engine_server.cli", "serve", "--model", str(tiny_folder), "--endpoint", "tcp://127.0.0.1:*"]
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            for line in server.stderr:
                server.send_signal(signal.SIGHUP)
                if "warming up" in line:
                    break
            assert server.stdout.readline().startswith("serving ")
        finally:
            server.terminate()


def test_sighup_reloads_a_server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process, WireClient(process.endpoint) as client:
        first = client.hello().header
        process.process.send_signal(signal.SIGHUP)
        assert "anew" in client.wait_for(m.Closing, timeout_s=120).header.reason
        assert client.hello().header.checkpoint_hash == first.checkpoint_hash
