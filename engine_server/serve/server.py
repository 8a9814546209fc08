# SPDX-License-Identifier: Apache-2.0
"""The ZeroMQ server: one ROUTER socket, its thread, and the rules of SPEC.md, section 5."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time

import zmq

from engine_server.serve.client import Client
from engine_server.serve.endpoint import check_endpoint
from engine_server.serve.worker import Event, Worker
from engine_server.tracks.engine import Engine
from engine_server.tracks.windows import AudioWindow
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode, version_mismatch
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE, MIN_RATE

MAX_TRACKS = 64
MAX_PART_BYTES = 16 * 2**20
SEND_HIGH_WATER = 64
FORGET_AFTER_S = 30.0
POLL_MS = 250
MESSAGES_AT_ONCE = 256
log = logging.getLogger("demon.serve")


class Server:
    """Binds at construction; `run` serves on the calling thread until `stop` is called from any other.

    Raises DemonError `E_BIND` if the endpoint is not a loopback address or is taken.
    """

    def __init__(self, engine: Engine, endpoint: str) -> None:
        check_endpoint(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self._socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise DemonError("E_BIND", f"{endpoint}: {error.strerror}; is another server running?") from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_in, self._wake_out = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake_out.connect("inproc://wake")
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.checkpoint, self.backend = engine.checkpoint, engine.backend
        self._clients: dict[bytes, Client] = {}
        self._worker = Worker(engine, self._emit)

    def run(self) -> None:
        """Serve until stopped; then close everything."""
        self._worker.start()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        try:
            while not self._stopping.is_set():
                ready = dict(poller.poll(POLL_MS))
                if self._wake_in in ready:
                    with contextlib.suppress(zmq.Again):
                        while True:
                            self._wake_in.recv(zmq.DONTWAIT)
                if self._socket in ready:
                    self._receive_some()
                self._take_events()
                self._send_windows()
                self._forget_silent()
        finally:
            self._worker.stop()
            self._context.destroy(linger=0)

    def stop(self) -> None:
        """Make `run` return. Any thread, also a signal handler."""
        self._stopping.set()

    def _emit(self, event: Event) -> None:
        """Queue an event and wake the socket thread. The worker's thread only: it alone uses this end of the pair."""
        self._events.put(event)
        with contextlib.suppress(zmq.Again):  # a full pair will wake the other end all the same
            self._wake_out.send(b"", zmq.DONTWAIT)

    def _receive_some(self) -> None:
        """Take what has come, but no more than others can wait for."""
        for _ in range(MESSAGES_AT_ONCE):
            try:
                routing_id, *parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._receive(routing_id, parts)

    def _receive(self, routing_id: bytes, parts: list[bytes]) -> None:
        client = self._clients.get(routing_id)
        epoch = 0
        try:
            rate, lane_count = (client.hello.rate, len(client.hello.lanes)) if client else (MAX_RATE, 0)
            packet = decode(parts, rate=rate, lane_count=lane_count)
            epoch = getattr(packet.header, "epoch", 0)
            self._handle(routing_id, client, packet)
        except DemonError as error:
            if client is None and error.code in ("E_PAYLOAD_SIZE", "E_NOT_FINITE"):
                error = DemonError("E_UNKNOWN_TRACK", "say hello first")
            self._refuse(routing_id, error, epoch)
        except Exception as error:  # a fault of ours must not end the other tracks
            log.exception("track %s", routing_id.hex()[:12])
            self._refuse(routing_id, DemonError("E_ENGINE", f"{type(error).__name__}: {error}"), epoch)

    def _refuse(self, routing_id: bytes, error: DemonError, epoch: int) -> None:
        log.warning("track %s: %s", routing_id.hex()[:12], error)
        self._send(routing_id, Packet(m.Error(error.code, error.message[:256], epoch)))

    def _handle(self, routing_id: bytes, client: Client | None, packet: Packet) -> None:
        now, header = time.monotonic(), packet.header
        if isinstance(header, m.Hello):
            self._greet(routing_id, client, header)
            return
        if client is None:
            raise DemonError("E_UNKNOWN_TRACK", "say hello first")
        client.last_heard = now
        match header:
            case m.Ping(epoch, wanted):
                client.acknowledge(epoch, wanted, now)
                self._send(routing_id, Packet(self._worker.positions.get(client.track_id, m.Pong(0, 0, 0.0, 0.0))))
            case m.Feed():
                assert packet.lanes is not None
                client.check_feed(packet.lanes)
            case m.Drop(epoch):
                client.drop(epoch)
            case m.Bye():
                del self._clients[routing_id]
                log.info("track %s left", client.track_id)
        self._worker.post(client.track_id, packet)

    def _greet(self, routing_id: bytes, old: Client | None, hello: m.Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise DemonError("E_PROTOCOL_VERSION", version_mismatch(hello.protocol))
        if not hello.is_rate_valid():
            raise DemonError("E_SAMPLE_RATE", f"{hello.rate} Hz is not a multiple of 25 from {MIN_RATE} to {MAX_RATE}")
        if old:
            self._worker.post(old.track_id, Packet(m.Bye()))
        elif len(self._clients) >= MAX_TRACKS:
            raise DemonError("E_BUSY", f"this server takes {MAX_TRACKS} tracks")
        client = self._clients[routing_id] = Client(routing_id, hello, time.monotonic())
        log.info("track %s: %s at %d Hz", client.track_id, hello.client, hello.rate)
        self._worker.post(client.track_id, Packet(hello))

    def _take_events(self) -> None:
        by_track = {client.track_id: client for client in self._clients.values()}
        while not self._events.empty():
            event = self._events.get()
            client = by_track.get(event.track)
            if client is None:
                continue
            if isinstance(event.what, AudioWindow):
                client.deliver(event.what)
            else:
                self._send(client.routing_id, Packet(event.what))
            if event.ends_track:
                del self._clients[client.routing_id]

    def _send_windows(self) -> None:
        for client in self._clients.values():
            while window := client.due():
                header = m.Window(window.epoch, window.take, window.frame, window.count)
                if not self._send(client.routing_id, Packet(header, window.audio)):
                    break
                client.mark_sent(window, time.monotonic())

    def _send(self, routing_id: bytes, packet: Packet) -> bool:
        """Whether the message is on its way; False if the client's queue is full or it has gone (it will say hello again)."""
        try:
            self._socket.send_multipart([routing_id, *encode(packet)], zmq.DONTWAIT)
            return True
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for client in [c for c in self._clients.values() if now - c.last_heard > FORGET_AFTER_S]:
            log.info("track %s fell silent", client.track_id)
            del self._clients[client.routing_id]
            self._worker.post(client.track_id, Packet(m.Bye()))
