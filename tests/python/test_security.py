# SPDX-License-Identifier: Apache-2.0
"""Nobody gets in: CURVE, the gate and the door, on bare sockets with attackers of every kind. `test_security_server.py` besieges
a whole server."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time

import pytest
import zmq
import zmtp
from hypothesis import given
from hypothesis import strategies as st

from engine_server.serve import door as door_module
from engine_server.serve import security
from engine_server.serve.door import Connection, Door, choose
from engine_server.serve.keys import KeyStore, make_pair
from engine_server.serve.security import Gate, check_bind, secure, user_of
from shared_protocol.errors import DemonError

SERVED_MS, REFUSED_MS = 20_000, 700
"""How long an answer may take on a busy machine; how long none is waited for."""


class Echo:
    """A secured ROUTER that sends back what it gets, and keeps it with its sender."""

    def __init__(self, store, *, gate=True):
        self.received = []
        self._context = zmq.Context()
        self.gate = Gate(self._context, store)
        if gate:
            self.gate.start()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        secure(self._socket, store)
        self.door = Door(self._socket)
        self.door.start()
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stopping.is_set():
            if self._socket.poll(20):
                frames = self._socket.recv_multipart(copy=False)
                self.received.append((user_of(frames), frames[-1].bytes, frames[-1].get(zmq.SRCFD)))
                self._socket.send_multipart(frames)
        self.door.stop()

    def close(self):
        self._stopping.set()
        self._thread.join()
        self.gate.stop()
        self._context.destroy(linger=0)

    def said(self):
        return [content for _, content, _ in self.received]


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


@pytest.fixture
def pair(store):
    pair = make_pair()
    store.allow("laptop", pair.public)
    return pair


@pytest.fixture
def echo(store, pair):
    with contextlib.closing(Echo(store)) as server:
        yield server


@pytest.fixture
def connect(store):
    """Open a client: with a pair or with none, and the right server key unless another is given."""
    context = zmq.Context()

    def open_client(port, pair=None, *, server=None):
        one = context.socket(zmq.DEALER)
        one.linger = 0
        if pair:
            one.curve_serverkey = (server or store.server().public).encode()
            one.curve_publickey, one.curve_secretkey = pair.public.encode(), pair.secret.encode()
        one.connect(f"tcp://127.0.0.1:{port}")
        return one

    yield open_client
    context.destroy(linger=0)


def answer(client, content, timeout_ms=SERVED_MS):
    """What comes back, None for nothing."""
    with contextlib.suppress(zmq.Again):  # a client whose key was refused has nowhere to send to, for good
        client.send(content, zmq.DONTWAIT)
    return client.recv() if client.poll(timeout_ms) else None


def test_an_allowed_client_is_served_and_known_by_its_key_on_any_socket(echo, connect, pair):
    assert answer(connect(echo.port, pair), b"one") == b"one"
    assert answer(connect(echo.port, pair), b"two") == b"two"
    assert [(user, content) for user, content, _ in echo.received] == [(pair.public, b"one"), (pair.public, b"two")]
    assert echo.gate.is_allowed(pair.public)
    assert echo.gate.name_of(pair.public) == "laptop"


@pytest.mark.parametrize("who", ["no CURVE", "unknown key", "wrong server key"])
def test_others_are_not_served_and_cost_nobody(echo, connect, pair, who):
    stranger = {
        "no CURVE": lambda: connect(echo.port),
        "unknown key": lambda: connect(echo.port, make_pair()),
        "wrong server key": lambda: connect(echo.port, pair, server=make_pair().public),
    }[who]()
    honest = connect(echo.port, pair)
    assert answer(honest, b"before") == b"before"
    assert answer(stranger, b"let me in", REFUSED_MS) is None
    assert answer(honest, b"after") == b"after"
    assert echo.said() == [b"before", b"after"]


def test_plain_passwords_are_not_served(echo):
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.plain_username, client.plain_password = b"root", b"root"
        client.connect(f"tcp://127.0.0.1:{echo.port}")
        assert answer(client, b"let me in", REFUSED_MS) is None
    assert echo.received == []


def test_without_a_gate_nobody_is_served(store, pair, connect):
    """ZeroMQ by itself would take any key when nobody answers for them."""
    with contextlib.closing(Echo(store, gate=False)) as server:
        assert answer(connect(server.port, make_pair()), b"x", REFUSED_MS) is None
        assert answer(connect(server.port, pair), b"x", REFUSED_MS) is None
        assert server.received == []


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    "zeros": bytes(4096),
    "noise": os.urandom(4096),
    "NULL mechanism": GREETING + b"NULL" + bytes(48) + b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\6DEALER" + bytes(200),
    "forged hello": GREETING + b"CURVE" + bytes(47) + b"\x04\xc8\x05HELLO\x01\x00" + bytes(300),
    "endless command": GREETING + b"CURVE" + bytes(47) + b"\x06" + b"\xff" * 8 + bytes(300),
}  # fmt: skip
"""What no client says."""


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_on_the_port_is_cut_off_and_costs_nobody(echo, connect, pair, garbage):
    honest = connect(echo.port, pair)
    assert answer(honest, b"before") == b"before"
    with socket.create_connection(("127.0.0.1", echo.port)) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(garbage)
        assert zmtp.is_cut_off(raw)
    assert answer(honest, b"after") == b"after"
    assert echo.said() == [b"before", b"after"]


def test_a_revoked_client_opens_no_connection_and_loses_the_one_it_has(echo, connect, store, pair, monkeypatch):
    monkeypatch.setattr(security, "RELOAD_S", 0.0)
    there = connect(echo.port, pair)
    assert answer(there, b"mine") == b"mine"
    store.revoke("laptop")
    assert answer(connect(echo.port, pair), b"again", REFUSED_MS) is None
    assert not echo.gate.is_allowed(pair.public)
    echo.door.close_connection(echo.received[0][2])
    deadline = time.monotonic() + SERVED_MS / 1000
    while echo.door.count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert answer(there, b"still here?", REFUSED_MS) is None
    assert echo.said() == [b"mine"]
    store.allow("laptop", pair.public)
    assert answer(connect(echo.port, pair), b"back") == b"back"


def test_a_client_that_is_allowed_while_the_server_runs_is_served(echo, connect, store):
    late = make_pair()
    store.allow("late", late.public)
    assert answer(connect(echo.port, late), b"x") == b"x"


def test_a_list_that_cannot_be_read_changes_nothing_and_is_told_once(store, pair, caplog):
    with zmq.Context() as context:
        gate = Gate(context, store)
        store.clients_file.chmod(0o644)
        assert all(gate.callback(security.DOMAIN, pair.public.encode()) for _ in range(3))
        assert not gate.callback(security.DOMAIN, make_pair().public.encode())
        assert caplog.text.count("stays as it was") == 1
        store.clients_file.chmod(0o600)
        store.revoke("laptop")
        assert not gate.callback(security.DOMAIN, pair.public.encode())
        store.clients_file.unlink()
        assert not gate.callback(security.DOMAIN, pair.public.encode())


def test_an_existing_connection_is_looked_at_once_a_second(store, pair):
    now = [100.0]
    with zmq.Context() as context:
        gate = Gate(context, store, clock=lambda: now[0])
        store.revoke("laptop")
        now[0] += security.RELOAD_S / 2
        assert gate.is_allowed(pair.public)
        now[0] += security.RELOAD_S
        assert not gate.is_allowed(pair.public)


def test_a_gate_whose_questions_fail_refuses_and_goes_on(store, pair, monkeypatch, caplog):
    with zmq.Context() as context:
        gate = Gate(context, store)
        with monkeypatch.context() as patch:
            patch.setattr(gate, "_find", lambda *_, **__: 1 / 0)
            assert gate.callback(security.DOMAIN, pair.public.encode()) is False
        assert gate.callback(security.DOMAIN, pair.public.encode()) is True


def test_refusals_fill_no_log(store, pair, caplog):
    now = [0.0]
    with zmq.Context() as context:
        gate = Gate(context, store, clock=lambda: now[0])
        for _ in range(500):
            gate.callback(security.DOMAIN, make_pair().public.encode())
            now[0] += 0.01
    assert len(caplog.records) == 1


ADDRESSES = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=20)


@given(ADDRESSES)
def test_the_connection_to_close_is_of_the_most_crowded_address_and_proved_nothing_if_possible(spec):
    ones = [Connection(k, address, is_cut=cut) for k, (address, _, cut) in enumerate(spec)]
    chosen = choose(ones, lambda one: spec[one.handle][1])
    remaining = [one for one in ones if not one.is_cut]
    if not remaining:
        assert chosen is None
        return
    crowd = [one for one in remaining if one.address == chosen.address]
    assert len(crowd) == max(sum(other.address == one.address for other in remaining) for one in remaining)
    unproved = [one for one in crowd if not spec[one.handle][1]]
    assert chosen is (unproved[0] if unproved else crowd[-1])


LOOPBACK = ["tcp://127.0.0.1:47800", "tcp://127.1.2.3:*", "tcp://localhost:1", "tcp://[::1]:1"]
BEYOND = [
    "tcp://0.0.0.0:47800",
    "tcp://*:47800",
    "tcp://192.168.0.2:*",
    "tcp://eth0:1",
    "tcp://[::]:1",
    "tcp://127.0.0.1.evil:1",
]


@pytest.mark.parametrize("endpoint", LOOPBACK)
def test_loopback_needs_no_keys(endpoint, store):
    assert check_bind(endpoint, store) is False
    assert not store.folder.exists()


@pytest.mark.parametrize("endpoint", BEYOND)
def test_beyond_loopback_needs_keys_and_says_how_to_make_them(endpoint, store):
    with pytest.raises(DemonError, match=r"E_BIND.*demon keys new NAME --out NAME.json --endpoint tcp://THIS_HOST:"):
        check_bind(endpoint, store)
    store.server()  # a server's pair alone lets nobody in
    with pytest.raises(DemonError, match="E_BIND"):
        check_bind(endpoint, store)
    store.allow("laptop", make_pair().public)
    assert check_bind(endpoint, store) is True
    store.folder.chmod(0o755)
    with pytest.raises(DemonError, match="E_KEYS"):
        check_bind(endpoint, store)


@pytest.mark.parametrize(
    "endpoint", ["", "studio", "epgm://x", "tcp://a b:1", "tcp://:1", "tcp://0.0.0.0", "tcp://x:1;y"]
)
def test_what_is_no_address_is_refused(endpoint, store, pair):
    with pytest.raises(DemonError, match="E_BIND"):
        check_bind(endpoint, store)


def claim_user(port, user):
    """Say `x` as a peer without CURVE that names itself; the connection."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
    raw.recv(64)
    claim = b"\x07User-Id" + len(user).to_bytes(4, "big") + user.encode()
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER" + claim
    time.sleep(0.1)  # ZeroMQ closes a connection that says all at once
    with contextlib.suppress(ConnectionError):
        raw.sendall(bytes([4, len(ready)]) + ready)
        time.sleep(0.1)
        raw.sendall(b"\x00\x01x")
    return raw


def test_a_user_cannot_be_claimed_on_a_secured_socket(echo, pair):
    """On one without keys it can: ZeroMQ passes on what a peer says of itself, `User-Id` too."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as unsecured:
        unsecured.linger = 0
        with claim_user(unsecured.bind_to_random_port("tcp://127.0.0.1"), pair.public):
            assert unsecured.poll(SERVED_MS)
            assert user_of(unsecured.recv_multipart(copy=False)) == pair.public
    with claim_user(echo.port, pair.public) as raw:
        assert zmtp.is_cut_off(raw)
    assert echo.received == []


def test_a_message_without_a_user_has_none():
    assert user_of([zmq.Frame(b"x")]) == ""


def test_no_secret_is_logged(echo, connect, store, pair, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    assert answer(connect(echo.port, pair), b"x") == b"x"
    assert answer(connect(echo.port, make_pair()), b"x", REFUSED_MS) is None
    said = caplog.text + "".join(capfd.readouterr())
    assert "laptop connects" in said
    assert store.server().secret not in said
    assert pair.secret not in said


@pytest.fixture
def open_door():
    """A socket without keys behind a door, one connection to it, and that connection's handle."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    door = Door(router)
    door.start()
    peer = zmtp.connect(router.bind_to_random_port("tcp://127.0.0.1"), b"somebody")
    deadline = time.monotonic() + 20
    while not door.count and time.monotonic() < deadline:
        time.sleep(0.01)
    (handle,) = door._connections
    yield door, peer, handle
    peer.close()
    door.stop()
    context.destroy(linger=0)


def is_open(peer):
    peer.settimeout(0.3)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        return True
    return False


def send_flood(door, peer, handle):
    """Some bytes that the other end has; how many."""
    one = door._connections[handle]
    before = door_module._bytes_received(one)
    flood = zmtp.message([b"odd"]) * 100
    peer.sendall(flood)
    deadline = time.monotonic() + 20
    while door_module._bytes_received(one) < before + len(flood) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(flood)


def test_a_flood_ends_the_connection_that_it_comes_by(open_door):
    door, peer, handle = open_door
    door.end_flood(handle, b"flooder", send_flood(door, peer, handle))
    assert zmtp.is_cut_off(peer)


def test_a_flood_of_a_known_client_ends_its_own_connection(open_door):
    door, peer, handle = open_door
    door.claim(handle, b"flooder")
    door.end_flood(handle, b"flooder", send_flood(door, peer, handle))
    assert zmtp.is_cut_off(peer)


def test_a_flood_does_not_end_the_connection_of_another_who_speaks_by_its_number_now(open_door):
    door, peer, handle = open_door
    size = send_flood(door, peer, handle)
    door.claim(handle, b"honest")
    door.end_flood(handle, b"flooder", size)
    door.end_flood(handle + 1, b"honest", size)
    assert is_open(peer)


def test_a_flood_does_not_end_a_connection_that_has_not_received_it(open_door):
    door, peer, handle = open_door
    size = 2 * send_flood(door, peer, handle)
    door.end_flood(handle, b"flooder", size)
    door.end_flood(handle, b"flooder", 0)
    assert is_open(peer)


def test_whoever_spoke_by_a_number_before_does_not_shield_a_flood(open_door, monkeypatch):
    """A message that is read late may be of a connection that has ended."""
    door, peer, handle = open_door
    door.claim(handle, b"gone")
    monkeypatch.setattr(door_module, "NAMED_S", 0.0)
    door.end_flood(handle, b"flooder", send_flood(door, peer, handle))
    assert zmtp.is_cut_off(peer)
