# SPDX-License-Identifier: Apache-2.0
"""What may wait for an engine that takes nothing: its thread does not run, and the server is called, not sent to."""

from __future__ import annotations

import time

import numpy as np
import pytest

from engine_server.serve import server as server_module
from engine_server.serve import worker as worker_module
from engine_server.serve.server import MAX_WAITING, MAX_WAITING_FRAMES, Server
from engine_server.serve.worker import INPUT_CREDIT
from engine_server.tracks.engine import Engine
from shared_protocol import messages as m
from shared_protocol.codec import Packet
from shared_protocol.errors import DemonError
from shared_protocol.timebase import samples_per_frame

RATE = 48_000
COUNT = 25
"""Frames of every feed."""
ROUTING_ID = b"c" + bytes(16)


class BusyServer:
    """With one track."""

    def __init__(self, server):
        self.server, self.inbox = server, server._worker.inbox

    def greet(self, mode="stream"):
        latency = 150 if mode == "stream" else 0
        hello = m.Hello(3, "x", RATE, mode, latency, 250, "none", ["denoise"], m.make_config("", 0, 0, "ode"))
        self.server._greet(ROUTING_ID, "", None, hello)

    def say(self, header):
        self._handle(Packet(header))

    def feed(self, epoch, *frames):
        lanes = np.full((COUNT, 1), 0.6, dtype=np.float32)
        audio = np.zeros((2, COUNT * samples_per_frame(RATE)), dtype=np.float32)
        for frame in frames:
            self._handle(Packet(m.Feed(epoch, frame, COUNT), audio, lanes))

    def waiting(self):
        return self.inbox.waiting(ROUTING_ID)

    def _handle(self, packet):
        self.server._handle(self.server._clients.find(ROUTING_ID, is_audio=False), packet, 0)


@pytest.fixture
def busy(tiny):
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    yield BusyServer(server)
    server._sockets.close()


ITS_CREDIT = range(0, INPUT_CREDIT, COUNT)


def test_input_beyond_the_credit_is_refused_and_may_come_again(busy):
    busy.greet()
    busy.feed(1, *[0] * (MAX_WAITING_FRAMES // COUNT + 1))
    with pytest.raises(DemonError, match="credit"):
        busy.feed(1, COUNT)
    assert busy.waiting().frames < MAX_WAITING_FRAMES + COUNT


def test_each_epoch_of_a_track_has_its_credit_and_may_be_fed_once_more(busy):
    """A loop and its commit after a lost connection, which the client feeds again because a busy engine has taken nothing."""
    busy.greet("loop")
    for _ in range(2):
        for epoch in (1, 2):
            busy.feed(epoch, *ITS_CREDIT)
    with pytest.raises(DemonError, match="credit"):
        busy.feed(2, INPUT_CREDIT)


def test_what_a_client_feeds_again_and_again_while_the_engine_is_busy_is_no_fault_of_it(busy):
    """It does so every 2 s, and is told nothing; only more than was fed before is refused."""
    busy.greet()
    for _ in range(5):
        busy.feed(1, *ITS_CREDIT)
    assert busy.waiting().frames == MAX_WAITING_FRAMES
    with pytest.raises(DemonError, match="credit"):
        busy.feed(1, INPUT_CREDIT - 1)


def test_what_has_waited_for_the_engine_counts_from_when_it_came(busy):
    """For the deadlines: a step may take long."""
    busy.greet()
    busy.say(m.Begin(1, "stream", 0, 0, 0, False))
    busy.feed(1, 0)
    came = time.monotonic()
    time.sleep(0.1)
    worker = busy.server._worker
    worker._take_messages()
    (track,) = worker._engine.tracks.values()
    assert track._epochs[1].heard_to == COUNT
    assert track._epochs[1].heard_at <= came


def test_a_pong_names_an_epoch_whose_begin_waits(busy, monkeypatch):
    """A step may take longer than the 2 s after which a client that is not told of its epoch says hello anew."""
    busy.greet()
    busy.server._worker._take_messages()
    answers = []
    monkeypatch.setattr(server_module, "send_packet", lambda socket, name, packet: answers.append(packet.header))
    busy.say(m.Begin(3, "stream", 0, 0, 0, False))
    busy.feed(3, 0)
    busy.say(m.Ping(1, 0, 0, 0))
    assert (answers[-1].number, answers[-1].epochs, answers[-1].expected) == (1, [3], [0])
    busy.server._worker._take_messages()
    busy.say(m.Begin(4, "stream", 1920 * 7, 7, 7, False))
    busy.say(m.Ping(2, 0, 0, 0))
    assert (answers[-1].number, answers[-1].epochs, answers[-1].expected) == (2, [3, 4], [COUNT, 7])
    busy.server._worker._take_messages()
    assert not busy.inbox.begun(ROUTING_ID)


def test_a_track_that_leaves_or_drops_is_heard_however_much_of_it_waits(busy):
    busy.greet()
    while busy.waiting().frames < MAX_WAITING_FRAMES:
        busy.feed(1, 0)
    busy.say(m.Ping(1, 0, 0, 0))
    busy.say(m.Drop(1))
    before = busy.waiting().messages
    busy.say(m.Bye())
    assert busy.waiting().messages == before + 1
    assert not list(busy.server._clients)
    assert not busy.server._clients._by_audio_id
    while busy.waiting().messages < MAX_WAITING:
        busy.greet()
        busy.say(m.Bye())
    with pytest.raises(DemonError, match="E_LIMIT"):
        busy.greet()


@pytest.mark.parametrize("limit", ["MAX_HELD_BYTES_OF_TRACK", "MAX_HELD_BYTES"])
def test_audio_that_waits_to_be_encoded_is_bounded_and_comes_again(busy, monkeypatch, limit):
    frames = 4 * COUNT
    monkeypatch.setattr(worker_module, limit, frames * 2 * 4 * samples_per_frame(RATE))
    worker = busy.server._worker
    busy.greet("loop")
    busy.say(m.Begin(1, "loop", 0, 0, 0, False))
    busy.feed(1, *range(0, 2 * frames, COUNT))
    worker._take_messages()
    expected = [next(iter(worker.positions.values())).expected]
    assert expected == [[frames]]
    codes = [event.what.code for event in drain(busy.server._events) if isinstance(event.what, m.Error)]
    assert codes == ["E_LIMIT"] * 4
    worker._step()
    busy.feed(1, frames)
    worker._take_messages()
    assert next(iter(worker.positions.values())).expected == [frames + COUNT]


def drain(events):
    while not events.empty():
        yield events.get()
