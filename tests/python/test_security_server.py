# SPDX-License-Identifier: Apache-2.0
"""A real server besieged: replay, forgery, thousands of connections, parts too large, and paths in the place of hashes."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from relay import Relay
from test_security import GARBAGE, REFUSED_MS, SERVED_MS
from track_rig import music
from wire import CONFIG, WireClient
from zmtp import is_cut_off

from engine_server.model.lora_library import SHIPPED
from engine_server.serve import security, sockets
from engine_server.serve.door import MOST_CONNECTIONS, QUEUED_EVENTS
from engine_server.serve.handles import raise_handle_limit
from engine_server.serve.keys import KeyStore, make_pair
from engine_server.serve.server import Server
from engine_server.serve.sockets import MAX_AUDIO_BYTES, MAX_CONTROL_BYTES
from engine_server.status.ask import Keys
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.codec import decode

FRAMES = 60
SOURCE = music(FRAMES)


class Served:
    """A real server that serves on a thread of this process."""

    def __init__(self, checkpoint, endpoint, store):
        self._checkpoint, self._store = checkpoint, store
        self._server = Server(Engine(checkpoint), endpoint, store=store)
        self.endpoint = self._server.endpoint.replace("0.0.0.0", "127.0.0.1")
        self.port = int(self.endpoint.rpartition(":")[2])
        self._thread = threading.Thread(target=self._server.run, name="server")
        self._thread.start()

    def client(self, pair, *, port=None):
        """One that comes with a pair, maybe by another port."""
        return WireClient(f"tcp://127.0.0.1:{port or self.port}", keys=Keys(self._store.server().public, pair))

    def tracks(self):
        """Those that there are. Each hello makes another one, also of a client that has one."""
        return {client.track_id for client in self._server._clients}

    def bits(self):
        """What a bounce of `SOURCE` must be."""
        return bits(self._checkpoint)

    def close(self):
        self._server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@functools.cache
def bits(checkpoint):
    return render(Engine(checkpoint), SOURCE, 48_000, build_table({"denoise": 0.6}, FRAMES), CONFIG)


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


@pytest.fixture
def pair(store):
    pair = make_pair()
    store.allow("laptop", pair.public)
    return pair


@pytest.fixture
def server(tiny, store, pair):
    """Behind keys, since it listens beyond loopback."""
    raise_handle_limit()
    with contextlib.closing(Served(tiny, "tcp://0.0.0.0:*", store)) as served:
        yield served


@pytest.fixture
def impatient(monkeypatch, tiny, store, pair):
    """One that waits for a greeting no longer than a moment."""
    for module in (security, sockets):
        monkeypatch.setattr(module, "HANDSHAKE_MS", 300)
    with contextlib.closing(Served(tiny, "tcp://0.0.0.0:*", store)) as served:
        yield served


@pytest.fixture(scope="module")
def plain(tiny):
    """On loopback, without keys."""
    with contextlib.closing(Served(tiny, "tcp://127.0.0.1:*", None)) as served:
        yield served


def test_garbage_on_either_port_is_cut_off_and_costs_nobody(server, pair):
    with server.client(pair) as honest:
        honest.hello()
        for number, garbage in enumerate(GARBAGE.values()):
            with socket.create_connection(("127.0.0.1", server.port + number % 2)) as raw:
                with contextlib.suppress(ConnectionError):
                    raw.sendall(garbage)
                assert is_cut_off(raw)
        assert np.array_equal(honest.bounce(SOURCE, frames=FRAMES), server.bits())


def test_a_recorded_session_that_is_replayed_is_not_accepted(server, pair):
    with Relay(server.port) as relay, server.client(pair, port=relay.port) as client:
        client.hello()
        client.ping(number=1)
        client.wait_for(m.Pong, number=1)
        recorded, tracks = bytes(relay.sent[0]), server.tracks()
        assert CONFIG.prompt.encode() not in recorded
        assert b"laptop" not in recorded
        for piece in (len(recorded), 64, 7):
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                with contextlib.suppress(ConnectionError):
                    for at in range(0, len(recorded), piece):
                        raw.sendall(recorded[at : at + piece])
                assert is_cut_off(raw)
        client.ping(number=2)
        client.wait_for(m.Pong, number=2)
        assert server.tracks() == tracks


@pytest.mark.parametrize("where", [2, 20, -1])
def test_a_byte_that_is_changed_on_the_way_ends_that_connection_only(server, pair, where):
    with server.client(pair) as honest, Relay(server.port) as relay, server.client(pair, port=relay.port) as client:
        honest.hello()
        client.hello()
        seen, tracks = [], server.tracks()

        def flip(data):
            relay.change = bytes
            seen.append(len(relay.sent))
            broken = bytearray(data)
            broken[where] ^= 0x20
            return bytes(broken)

        relay.change = flip
        client.send(m.Drop(1))
        deadline = time.monotonic() + SERVED_MS / 1000
        while len(relay.sent) == 1:  # until it comes over a new connection
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert seen == [1]
        client.ping(number=7)  # by the new connection, for the same track
        client.wait_for(m.Pong, number=7)
        honest.ping(number=8)
        honest.wait_for(m.Pong, number=8)
        assert server.tracks() == tracks


SLOW_LORIS = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
deadline = time.monotonic() + 60
print("begun", flush=True)
while len(held) < 3000 and time.monotonic() < deadline:
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    one.sendall(bytes.fromhex(sys.argv[2]))
    held.append(one)
print("opened", len(held), flush=True)
sys.stdin.read()
"""


def handles():
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def attacked(port, greeting):
    """While a process opens 3000 connections, each with the beginning of a greeting; what is given is set when all are open."""
    attacker = subprocess.Popen(
        [sys.executable, "-c", SLOW_LORIS, str(port), greeting.hex()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    opened = threading.Event()
    try:
        assert attacker.stdout.readline() == "begun\n"
        threading.Thread(target=lambda: (attacker.stdout.readline(), opened.set()), daemon=True).start()
        yield opened
    finally:
        attacker.stdin.close()
        attacker.wait()
        attacker.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts handles in Linux's /proc")
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 8000, reason="attacker and server need the handles")
@pytest.mark.parametrize(
    ("number", "greeting"), [(0, b""), (1, b"\xff" + bytes(8) + b"\x7f")], ids=["silent", "half a greeting"]
)
def test_thousands_of_connections_take_a_bounded_number_of_handles_and_honest_clients_are_served(
    server, pair, number, greeting
):
    """To the control port, and to the audio port."""
    before = handles()
    with server.client(pair) as there:
        there.hello()
        assert np.array_equal(there.bounce(SOURCE, frames=FRAMES), server.bits())
        highest, epoch = 0, 1
        with attacked(server.port + number, greeting) as opened:
            while epoch == 1 or not opened.is_set():
                epoch += 1
                assert np.array_equal(there.bounce(SOURCE, epoch=epoch, frames=FRAMES), server.bits())
                with server.client(pair) as new:
                    new.hello()
                    assert np.array_equal(new.bounce(SOURCE, frames=FRAMES), server.bits())
                highest = max(highest, handles())
            # All that are left of them hang now.
            assert np.array_equal(there.bounce(SOURCE, epoch=epoch + 1, frames=FRAMES), server.bits())
            assert settled(lambda: handles() < before + MOST_CONNECTIONS + 100)
    assert highest < before + MOST_CONNECTIONS + QUEUED_EVENTS + 100


def settled(condition):
    """Whether something becomes true in the time that an answer may take."""
    deadline = time.monotonic() + SERVED_MS / 1000
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_who_never_finishes_the_greeting_is_closed_in_time(impatient, pair):
    held = [socket.create_connection(("127.0.0.1", impatient.port + k % 2)) for k in range(20)]
    assert all(is_cut_off(one) for one in held)
    for one in held:
        one.close()
    with impatient.client(pair) as client:
        client.hello()


OVERSIZE = {"control": MAX_CONTROL_BYTES, "audio": MAX_AUDIO_BYTES}


@pytest.mark.parametrize("which", OVERSIZE)
def test_a_part_that_is_too_large_ends_its_senders_connection(plain, which):
    with WireClient(plain.endpoint) as honest, zmq.Context() as context, context.socket(zmq.DEALER) as sender:
        honest.hello()
        sender.linger = 0
        sender.connect(f"tcp://127.0.0.1:{plain.port + (which == 'audio')}")
        ends = sender.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sender.send(bytes(OVERSIZE[which]))
        assert sender.poll(SERVED_MS), "the largest part is taken, and answered"
        assert decode(sender.recv_multipart(), rate=8000, lane_count=0).header.code == "E_MALFORMED"
        assert not ends.poll(0)
        sender.send(bytes(OVERSIZE[which] + 1))
        assert ends.poll(SERVED_MS)
        assert not sender.poll(REFUSED_MS), "nobody has read it"
        sender.disable_monitor()
        assert np.array_equal(honest.bounce(SOURCE, frames=FRAMES), plain.bits())


TRICKS = ["../../etc/passwd", "/etc/passwd", "\0", "a\0b", "file:///etc/passwd", "..\\..\\secret", "0f" * 31 + "..", "/" * 64,
          "0F" * 32, "0f" * 31 + "0\n"]  # fmt: skip
"""Hashes of LoRAs and references that are none."""
FILE_EVENTS = {"open", "os.listdir", "os.scandir", "pathlib.Path.glob", "pathlib.Path.rglob", "glob.glob"}


@pytest.fixture(scope="module")
def opened():
    """What the threads of servers do with files, from the first use of this on: pairs of an event and its path."""
    events = []

    def hear(event, arguments):
        if event in FILE_EVENTS and threading.current_thread().name in ("server", "engine"):
            events.append((event, str(arguments[0])))

    sys.addaudithook(hear)  # for good: nothing removes it
    return events


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("field", ["loras", "timbre", "structure"])
def test_a_path_in_the_place_of_a_hash_is_refused_and_opens_no_file(plain, opened, field, trick):
    config = m.make_config("strings", 7, **{field: [trick] if field == "loras" else trick})
    with WireClient(plain.endpoint) as client:
        client.hello()
        opened.clear()
        client.send(client.hello_header(config=config))
        client.wait_for(m.Error, code="E_FIELD")
        client.send(m.Configure(1, config))
        client.wait_for(m.Error, code="E_FIELD")
        client.send(m.Reference(trick, 48_000, 10, 0, 10), np.zeros((2, 10), np.float32))
        client.wait_for(m.Error, code="E_FIELD")
        client.send(
            client.hello_header(client=trick[:64], lanes=[trick[:32]], config=m.make_config(trick, prompt_b=trick))
        )
        client.wait_for(m.Welcome)  # these are texts
        assert opened == []


def test_a_hash_that_nobody_has_is_looked_for_in_the_folders_of_loras_only(plain, opened):
    with WireClient(plain.endpoint) as client:
        client.hello()
        opened.clear()
        client.send(m.Configure(1, m.make_config("strings", 7, loras=["0f" * 32])))
        client.wait_for(m.Error, code="E_LORA")
        assert opened, "whatever is opened is seen here"
        assert all(Path(path).is_relative_to(SHIPPED) for _, path in opened)
