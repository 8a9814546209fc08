# SPDX-License-Identifier: Apache-2.0
"""The proxy of the soak: what it does to connections, and that nothing of them stays."""

from __future__ import annotations

import socket
import socketserver
import threading
import time

import psutil
import pytest

from tests.soak.connection import Direction, Weather
from tests.soak.ports import HOST, free_port_pair, listener
from tests.soak.proxy import Proxy

TIMEOUT_S = 10.0
NOT_YET_S = 0.3


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self):
        try:
            while piece := self.request.recv(65_536):
                self.request.sendall(piece)
        except OSError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def targets():
    """Two echo servers on adjacent ports."""
    first = free_port_pair()
    servers = [EchoServer((HOST, port), Echo) for port in (first, first + 1)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield first, first + 1
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(targets):
    with Proxy(targets) as made:
        yield made


@pytest.fixture
def connect(proxy):
    """Connections through one of the proxy's ports."""
    made = []

    def open_one(number=0):
        made.append(socket.create_connection((HOST, proxy.port + number), TIMEOUT_S))
        made[-1].settimeout(TIMEOUT_S)
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def echo(connection, data=b"hello"):
    """Send, and receive as much."""
    connection.sendall(data)
    received = b""
    while len(received) < len(data) and (piece := connection.recv(65_536)):
        received += piece
    return received


def settled(condition):
    """Whether something becomes true in a moment."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def ends_with(connection):
    """How a connection ends for whoever reads it: `end` or `reset`."""
    try:
        while connection.recv(65_536):
            pass
        return "end"
    except ConnectionResetError:
        return "reset"


def is_silent(connection):
    """Whether nothing comes for a while."""
    connection.settimeout(NOT_YET_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(TIMEOUT_S)
    return False


def test_in_fair_weather_every_byte_passes_on_both_ports_and_is_counted(proxy, connect):
    data = bytes(range(256)) * 4096
    assert echo(connect(0), data) == data
    assert echo(connect(1), b"audio") == b"audio"
    expected = {"accepted": 2, "up": len(data) + 5, "down": len(data) + 5}
    assert settled(lambda: proxy.counts | expected == proxy.counts)  # counted once they have been passed on
    assert proxy.open_connections == 2


def test_a_reset_reaches_both_ends_of_one_port_alone(proxy, connect):
    control, audio = connect(0), connect(1)
    assert echo(control) == echo(audio) == b"hello"
    proxy.reset(1)
    assert ends_with(audio) == "reset"
    assert echo(control) == b"hello"
    assert settled(lambda: proxy.counts["reset"] == 1)
    assert settled(lambda: proxy.open_connections == 1)


@pytest.mark.parametrize("direction", Direction)
def test_a_half_closed_connection_ends_for_its_receiver(proxy, connect, direction):
    one = connect()
    assert echo(one) == b"hello"
    proxy.half_close(direction)
    assert ends_with(one) == "end"  # upwards the echo server ends too, which comes back down
    one.close()
    assert settled(lambda: proxy.open_connections == 0)


def test_half_closed_downwards_the_engine_still_hears(proxy, connect):
    one = connect()
    echo(one)
    assert settled(lambda: proxy.counts["up"] == 5)
    proxy.half_close(Direction.DOWN)
    one.sendall(b"still there")
    assert settled(lambda: proxy.counts["up"] == 5 + 11)


def test_stalled_bytes_are_held_and_come_later(proxy, connect):
    one = connect()
    echo(one)
    proxy.stall()
    one.sendall(b"held")
    another = connect()
    another.sendall(b"held too")
    assert is_silent(one)
    assert is_silent(another)
    proxy.clear()
    assert one.recv(10) == b"held"
    assert another.recv(10) == b"held too"


def test_a_delay_holds_each_piece_and_keeps_their_order(proxy, connect):
    proxy.set_weather(Weather(delay_s=0.1, jitter_s=0.1))
    one = connect()
    began = time.monotonic()
    data = bytes(range(256)) * 1024
    for first in range(0, len(data), 16_384):
        one.sendall(data[first : first + 16_384])
    received = b""
    while len(received) < len(data):
        received += one.recv(65_536)
    assert received == data
    assert time.monotonic() - began >= 0.2, "0.1 s in each direction"


def test_a_throttle_limits_the_rate(proxy, connect):
    proxy.set_weather(Weather(bytes_per_s=100_000))
    one = connect()
    began = time.monotonic()
    assert echo(one, bytes(30_000)) == bytes(30_000)
    assert time.monotonic() - began >= 0.25


def test_refused_connections_leave_those_that_there_are(proxy, connect):
    one = connect()
    assert echo(one) == b"hello"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(0)
    assert echo(one) == b"hello"
    proxy.accept()
    assert echo(connect(0)) == b"hello"


def test_cut_on_one_port_alone_the_other_goes_on(proxy, connect):
    control, audio = connect(0), connect(1)
    echo(audio)
    proxy.cut(1)
    assert ends_with(audio) == "reset"
    with pytest.raises(ConnectionRefusedError):
        connect(1)
    assert echo(control) == b"hello"
    proxy.clear()
    assert echo(connect(1)) == b"hello"


def test_a_mark_is_more_than_a_handshake_of_one_connection(proxy, connect):
    control, audio = connect(0), connect(1)
    between = time.monotonic()
    for _ in range(30):
        echo(audio, bytes(110))
    assert proxy.last_mark_at(1) == 0.0
    another = connect(1)
    echo(another, bytes(4096))
    assert settled(lambda: proxy.last_mark_at(1) > between)
    assert proxy.last_mark_at(1, opened_after=between) > between
    assert proxy.last_mark_at(1, opened_after=proxy.last_mark_at(1)) == 0.0
    assert proxy.last_mark_at(0) == 0.0
    echo(control, bytes(256))
    assert settled(lambda: proxy.last_mark_at(0) > between)


def test_what_is_passed_on_to_nobody_is_no_mark(proxy, connect):
    one = connect(1)
    echo(one)
    proxy.stall()
    one.sendall(bytes(50_000))
    time.sleep(NOT_YET_S)
    one.close()
    time.sleep(NOT_YET_S)
    proxy.clear()
    assert settled(lambda: proxy.open_connections == 0)
    assert proxy.last_mark_at(1) == 0.0


def test_without_a_target_a_connection_ends_at_once():
    first = free_port_pair()
    with Proxy((first, first + 1)) as proxy, socket.create_connection((HOST, proxy.port), TIMEOUT_S) as one:
        assert ends_with(one) == "end"
        assert settled(lambda: proxy.counts["failed"] == 1)
        assert settled(lambda: proxy.open_connections == 0)


def test_nothing_is_left_of_connections_or_of_the_proxy(targets):
    own = psutil.Process()
    files, threads = own.num_fds(), threading.active_count()
    with Proxy(targets) as proxy:
        idle = own.num_fds()
        for round_ in range(30):
            with socket.create_connection((HOST, proxy.port + round_ % 2), TIMEOUT_S) as one:
                echo(one)
                if round_ % 3 == 0:
                    proxy.cut()
                    proxy.clear()
        assert settled(lambda: proxy.open_connections == 0 and own.num_fds() <= idle)
        socket.create_connection((HOST, proxy.port), TIMEOUT_S).close()
    assert settled(lambda: own.num_fds() <= files)
    assert settled(lambda: threading.active_count() <= threads)
    for port in (proxy.port, proxy.port + 1):
        listener(port).close()  # free again
