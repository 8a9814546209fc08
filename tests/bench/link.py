# SPDX-License-Identifier: Apache-2.0
"""The link: round trips without the model against bare sockets, what they cost the server, and what garbage does to others.

A server runs in a process of its own. Round trips take turns with those of an echo of the same bytes, in a process like it, so
that both meet the same machine.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from engine_server.serve.endpoint import audio_endpoint
from engine_server.serve.report import EngineReport
from engine_server.serve.sockets import ServerSockets
from engine_server.status.ask import ask
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.timebase import samples_per_frame
from tests.bench.measure import Row, Target, compared
from tests.bench.models import Effort

SMALL = Path(__file__).parents[1] / "checkpoint"
RATE, LANES = 48_000, ["denoise"]
TRIPS = 12_000
BLOCKS = 12
"""The trips of a row: in so many blocks, each after one of the echo's."""
WARMING = 50
"""Trips before, that do not count."""
Blocks = list[list[float]]
FED_AT_ONCE = 5
MOST_SLOWER = 1.5
"""What the link's slowest trips in a hundred may take, in those of bare sockets."""
WATCHED_S = 60.0
"""Some hundred feeds, each taken after a step at the earliest: else the longest would be the 99th of a hundred, too."""
PINGS_A_FEED = 3
ANSWER_MS = 20_000


def rows(effort: Effort) -> Iterator[Row]:
    """Trips first, while nothing is computed; then beside an engine at work, with and without a peer that sends garbage."""
    with _process(_serve) as (endpoint, _), _process(_echo) as (echo, _):
        trips = 400 if effort.quick else TRIPS
        yield from _heartbeats(endpoint, echo, trips)
        yield from _feeds(endpoint, echo, trips // 4)
        yield from _beside_garbage(endpoint, 2.0 if effort.quick else WATCHED_S)


def _heartbeats(endpoint: str, echo: str, trips: int) -> Iterator[Row]:
    ping, pong = encode(Packet(m.Ping(1, 0, 0, 0))), encode(Packet(m.Pong(1, [], [], 0.0, 0.0)))
    with Peer(endpoint) as peer, Peer(echo, greets=False) as bare:
        before = _report(endpoint)
        ours, theirs = _in_turn(
            lambda: peer.trip(peer.control, ping), lambda: bare.trip(bare.control, [*pong, *ping]), trips
        )
        after = _report(endpoint)
    name, against = "a ping and its pong", "an echo of the same bytes by pyzmq"
    yield _percentile(50, name, ours, against, theirs)
    yield _percentile(99, name, ours, against, theirs, target=Target("ratio", 1 / MOST_SLOWER))
    spent = 1000 * (after.link_cpu_s - before.link_cpu_s) / (trips + WARMING)
    yield Row(
        f"{name}: processor of the server's thread", spent, "the echo's median", 1000 * float(np.median(theirs)), "ms"
    )


def _feeds(endpoint: str, echo: str, trips: int) -> Iterator[Row]:
    """The same frames again and again, of which nothing is made: the time until the engine's thread has taken them."""
    with Peer(endpoint) as peer, Peer(echo, greets=False) as bare:
        peer.begin()
        feed, pong = peer.feed_parts(0), encode(Packet(m.Pong(0, [1], [0], 0.0, 0.0)))
        ours, theirs = _in_turn(
            lambda: peer.trip(peer.audio, feed), lambda: bare.trip(bare.control, [*pong, *feed]), trips
        )
    name, against = f"{FED_AT_ONCE} frames of feed, taken by the engine", "an echo that takes the same bytes"
    yield _percentile(50, name, ours, against, theirs)
    yield _percentile(99, name, ours, against, theirs)


def _percentile(percent: int, name: str, ours: Blocks, against: str, theirs: Blocks, **more: Any) -> Row:
    """Of each block; the median block stands in the row."""
    within = [[float(np.percentile(block, percent)) for block in blocks] for blocks in (ours, theirs)]
    return compared(f"{name}: {percent} of 100 within", within[0], against, within[1], **more)


def _beside_garbage(endpoint: str, seconds: float) -> Iterator[Row]:
    """How much longer an honest track waits than while the same garbage goes to a server of another kind.

    Since whoever sends it, and whoever receives it, needs the machine as well, which is not the link's doing. Of longest waits
    a single one of the baseline may be long enough to hide any other; so the 99th of a hundred are compared, too.
    """
    with _process(_swallow) as (elsewhere, _), Peer(endpoint) as busy, Peer(endpoint) as honest:
        busy.begin()
        honest.begin()
        waits = []
        for target in (elsewhere, endpoint):
            with _process(_send_garbage, target) as (_, garbage):
                garbage.send("begin")
                waits.append(_watched(busy, honest, seconds))
        step = 1000 * _report(endpoint).step_s
    refused = sum(_report(endpoint).refusals.values())
    for what in ("heartbeats", "feeds"):
        there, here = (wait[what] for wait in waits)
        for name, percent in (("99 of 100 waits", 99), ("the longest wait", 100)):
            yield _longer(f"{what} beside a peer that sends garbage: {name}", there, here, percent, step, refused)


def _longer(name: str, there: list[float], here: list[float], percent: int, step: float, refused: int) -> Row:
    """By how many steps of the engine a percentile of waits is longer where garbage comes. Waits in seconds, a step in ms."""
    before, beside = (1000 * float(np.percentile(waits, percent)) for waits in (there, here))
    return Row(
        f"{name}, beyond that while a bare socket is sent it",
        max(beside - before, 1e-3),
        "a step of the engine",
        step,
        "ms",
        target=Target("ratio", 1.0),
        note=f"{len(here)} trips against {len(there)}, {refused} messages refused, {beside:.0f} against {before:.0f} ms",
    )


def _watched(busy: Peer, honest: Peer, seconds: float) -> dict[str, list[float]]:
    """Trips of an honest track, in seconds, while another keeps the engine at work."""
    ping = encode(Packet(m.Ping(1, 0, 0, 0)))
    trips: dict[str, list[float]] = {"heartbeats": [], "feeds": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        busy.keep_busy()
        trips["heartbeats"] += [honest.trip(honest.control, ping) for _ in range(PINGS_A_FEED)]
        trips["feeds"].append(honest.feed_trip())
    return trips


class Peer:
    """A client with both sockets; without a greeting, the client of an echo."""

    def __init__(self, endpoint: str, *, greets: bool = True) -> None:
        self._context = zmq.Context()
        self.control = self._socket(b"c" + os.urandom(16), endpoint)
        self._fed = self._wanted = 0
        if greets:
            config = m.make_config("strings", 7)
            hello = m.Hello(PROTOCOL_VERSION, "bench", RATE, "stream", 150, 3000, "none", LANES, config)
            self.control.send_multipart(encode(Packet(hello)))
            welcome = self._next(m.Welcome)
            self.audio = self._socket(b"a" + bytes.fromhex(welcome.ticket), audio_endpoint(endpoint))
            self._credit = welcome.credit

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.send_multipart(encode(Packet(m.Bye())))
        self._context.destroy(linger=500)

    def trip(self, socket: zmq.Socket, parts: list[bytes]) -> float:
        """Seconds from sending to the next pong."""
        began = time.perf_counter()
        socket.send_multipart(parts)
        self._pong()
        return time.perf_counter() - began

    def begin(self) -> None:
        """An epoch at zero."""
        self.audio.send_multipart(encode(Packet(m.Begin(1, "stream", 0, 0, 0, False))))

    def feed_parts(self, frame: int) -> list[bytes]:
        """Some frames of silence."""
        audio = np.zeros((2, FED_AT_ONCE * samples_per_frame(RATE)), dtype=np.float32)
        lanes = np.full((FED_AT_ONCE, len(LANES)), 0.8, dtype=np.float32)
        return encode(Packet(m.Feed(1, frame, FED_AT_ONCE), audio, lanes))

    def feed(self) -> None:
        """Go on feeding, without waiting."""
        self.audio.send_multipart(self.feed_parts(self._fed))
        self._fed += FED_AT_ONCE

    def feed_trip(self) -> float:
        """Seconds until the engine's thread has taken some frames, of which it is told that none are wanted."""
        parts = self.feed_parts(self._fed)
        self._fed += FED_AT_ONCE
        began = time.perf_counter()
        self.audio.send_multipart(parts)
        while self._fed not in self._pong().expected:
            pass
        seconds = time.perf_counter() - began
        self.control.send_multipart(encode(Packet(m.Ping(2, 1, self._fed, 0))))
        while self._pong().number != 2:
            pass
        return seconds

    def keep_busy(self) -> None:
        """Take windows as they come, and feed as much."""
        while self.audio.poll(0):
            header = decode(self.audio.recv_multipart(), rate=RATE, lane_count=1).header
            assert isinstance(header, m.Window)
            if header.frame == self._wanted:
                self._wanted += header.count
        self.control.send_multipart(encode(Packet(m.Ping(3, 1, self._wanted, self._wanted))))
        while self._fed < self._wanted + self._credit:
            self.feed()
        while self.control.poll(0):
            self.control.recv_multipart()

    def _pong(self) -> m.Pong:
        return self._next(m.Pong)

    def _next(self, kind: type[Any]) -> Any:
        while True:
            if not self.control.poll(ANSWER_MS):
                raise TimeoutError("no answer")
            header = decode(self.control.recv_multipart()[:1], rate=RATE, lane_count=1).header
            if isinstance(header, kind):
                return header
            if isinstance(header, m.Error):
                raise RuntimeError(f"{header.code}: {header.message}")

    def _socket(self, routing_id: bytes, endpoint: str) -> zmq.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.setsockopt(zmq.LINGER, 500)
        socket.connect(endpoint)
        return socket


# Processes


@contextmanager
def _process(target: Callable[..., None], *arguments: str) -> Iterator[tuple[str, Any]]:
    """Run a function in a process of its own until this ends; what it says first, and a pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()


def _serve(pipe: Any) -> None:
    from engine_server.model.checkpoint import load_checkpoint
    from engine_server.serve.serve_engine import serve_engine
    from engine_server.serve.warm_up import warm_up
    from engine_server.tracks.engine import Engine

    def load() -> Engine:
        engine = Engine(load_checkpoint(str(SMALL), device="cpu"))
        warm_up(engine)
        return engine

    logging.getLogger("demon").setLevel(logging.ERROR)
    serve_engine("tcp://127.0.0.1:*", load, on_serving=pipe.send)


def _echo(pipe: Any) -> None:
    """Sends back the first part of what comes, from a loop that polls, as a server does."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind("tcp://127.0.0.1:*")
    pipe.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    while True:
        poller.poll()
        socket.send_multipart(socket.recv_multipart()[:2])


def _swallow(pipe: Any) -> None:
    """A server's two sockets, that answer whatever comes with a word."""
    sockets = ServerSockets("tcp://127.0.0.1:*")
    pipe.send(sockets.endpoint)
    while True:
        for socket in sockets.wait(-1):
            routing_id, *_ = socket.recv_multipart()
            socket.send_multipart([routing_id, b"no"])


def _send_garbage(pipe: Any, endpoint: str) -> None:
    """As much as the sockets take, of everything that is wrong: bytes, headers of nobody's track, large payloads."""
    rng = random.Random(1)
    context = zmq.Context()
    sockets = [context.socket(zmq.DEALER) for _ in range(2)]
    for socket, where in zip(sockets, (endpoint, audio_endpoint(endpoint)), strict=True):
        socket.connect(where)
    audio = np.zeros((2, 64 * samples_per_frame(RATE)), np.float32)
    large = encode(Packet(m.Feed(1, 0, 64), audio, np.zeros((64, 1), np.float32)))
    kinds = [
        lambda: [rng.randbytes(rng.randrange(200))],
        lambda: encode(Packet(m.Ping(1, 1, 0, 0))),
        lambda: [b"\x81\xa4type\xa4feed", b"\0" * 100],
        lambda: large,
    ]
    pipe.send("")
    pipe.recv()
    while True:
        for socket in sockets:
            kind = rng.choice(kinds[: len(kinds) if socket is sockets[1] else -1])
            socket.send_multipart(kind())
            while socket.poll(0):
                socket.recv_multipart()


def _in_turn(ours: Callable[[], float], theirs: Callable[[], float], trips: int) -> tuple[Blocks, Blocks]:
    """Seconds of trips, in blocks that take turns."""
    for warm in (ours, theirs):
        for _ in range(WARMING):
            warm()
    measured: tuple[Blocks, Blocks] = ([], [])
    for _ in range(BLOCKS):
        for trip, blocks in zip((ours, theirs), measured, strict=True):
            blocks.append([trip() for _ in range(trips // BLOCKS)])
    return measured


def _report(endpoint: str) -> EngineReport:
    report = ask(endpoint, None)
    assert isinstance(report, EngineReport)
    return report
