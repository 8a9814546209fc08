# SPDX-License-Identifier: Apache-2.0
"""The ZeroMQ server: its thread, and the rules of SPEC.md, section 5."""

from __future__ import annotations

import logging
import queue
import threading
import time

import msgspec
import zmq

from engine_server.serve.client import Client
from engine_server.serve.endpoint import check_endpoint
from engine_server.serve.sockets import ServerSockets
from engine_server.serve.worker import INPUT_CREDIT, NO_POSITION, Event, Item, Seat, Worker
from engine_server.tracks.engine import Engine
from engine_server.tracks.windows import AudioWindow
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode, version_mismatch
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE, MIN_RATE

MAX_TRACKS = 64
FORGET_AFTER_S = 30.0
POLL_MS = 250
CONTROL_AT_ONCE, AUDIO_AT_ONCE = 256, 32
"""Messages that are received before anything else is looked at: control is small, and never waits behind much audio."""
MAX_WAITING = 1024
"""Messages of a client that may wait for the engine's thread."""
MAX_WAITING_FRAMES = 2 * INPUT_CREDIT
"""Frames of its feed: what was sent before a lost connection may come once more."""
log = logging.getLogger("demon.serve")


class Server:
    """Binds at construction; `run` serves on the calling thread until `stop` is called from any other.

    Raises DemonError `E_BIND` if the endpoint is not a loopback address, or one of its two ports is taken.
    """

    def __init__(self, engine: Engine, endpoint: str) -> None:
        check_endpoint(endpoint)
        self._sockets = ServerSockets(endpoint)
        self.endpoint = self._sockets.endpoint
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.checkpoint, self.backend = engine.checkpoint, engine.backend
        self._clients: dict[bytes, Client] = {}
        self._by_ticket: dict[bytes, Client] = {}
        """Clients by the routing id of their audio socket."""
        self._worker = Worker(engine, self._emit)

    def run(self) -> None:
        """Serve until stopped; then tell the clients, and close everything."""
        self._worker.start()
        control, audio = self._sockets.control, self._sockets.audio
        try:
            while not self._stopping.is_set():
                ready = self._sockets.wait(POLL_MS)
                if control in ready:
                    self._receive_some(control, CONTROL_AT_ONCE)
                if audio in ready:
                    self._receive_some(audio, AUDIO_AT_ONCE)
                self._take_events()
                self._send_windows()
                self._forget_silent()
        finally:
            for client in self._clients.values():
                self._send(control, client.routing_id, Packet(m.Closing("the engine stops")))
            self._worker.stop()
            self._sockets.close()

    def stop(self) -> None:
        """Make `run` return. Any thread, also a signal handler."""
        self._stopping.set()

    def _emit(self, event: Event) -> None:
        """Queue an event and wake the socket thread. The worker's thread only: it alone wakes the sockets."""
        self._events.put(event)
        self._sockets.wake()

    def _receive_some(self, socket: zmq.Socket, most: int) -> None:
        """Take what has come, but no more than others can wait for."""
        for _ in range(most):
            try:
                routing_id, *parts = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._receive(socket, routing_id, parts)

    def _receive(self, socket: zmq.Socket, routing_id: bytes, parts: list[bytes]) -> None:
        is_audio = socket is self._sockets.audio
        client = (self._by_ticket if is_audio else self._clients).get(routing_id)
        epoch = 0
        try:
            rate, lane_count = (client.hello.rate, len(client.hello.lanes)) if client else (MAX_RATE, 0)
            packet = decode(parts, rate=rate, lane_count=lane_count)
            epoch = getattr(packet.header, "epoch", 0)
            if is_audio != isinstance(packet.header, m.ORDERED):
                raise DemonError("E_UNKNOWN_MESSAGE", "this message belongs to the other socket")
            self._handle(routing_id, client, packet)
        except DemonError as error:
            if client is None and error.code in ("E_PAYLOAD_SIZE", "E_NOT_FINITE"):
                error = DemonError("E_UNKNOWN_TRACK", "say hello first")
            self._refuse(socket, routing_id, client, error, epoch)
        except Exception as error:  # a fault of ours must not end the other tracks
            log.exception("track %s", routing_id.hex()[:12])
            fault = DemonError("E_ENGINE", f"{type(error).__name__}: {error}")
            self._refuse(socket, routing_id, client, fault, epoch)

    def _refuse(
        self, socket: zmq.Socket, routing_id: bytes, client: Client | None, error: DemonError, epoch: int
    ) -> None:
        """Say what is wrong: by the control socket, if the client is known."""
        log.warning("track %s: %s", client.track_id if client else routing_id.hex()[:12], error)
        if client is not None:
            socket, routing_id = self._sockets.control, client.routing_id
        self._send(socket, routing_id, Packet(m.Error(error.code, error.message[:256], epoch)))

    def _handle(self, routing_id: bytes, client: Client | None, packet: Packet) -> None:
        now, header = time.monotonic(), packet.header
        if isinstance(header, m.Hello):
            self._greet(routing_id, client, header)
            return
        if client is None:
            raise DemonError("E_UNKNOWN_TRACK", "say hello first")
        client.last_heard = now
        frames = 0
        match header:
            case m.Ping(number, epoch, wanted, received):
                client.acknowledge(epoch, wanted, received, now)
                position = self._worker.positions.get(client.track_id, NO_POSITION)
                answer = msgspec.structs.replace(position, number=number)
                self._send(self._sockets.control, client.routing_id, Packet(answer))
            case m.Feed(count=frames):
                assert packet.lanes is not None
                client.check_feed(packet.lanes)
            case m.Drop(epoch):
                client.drop(epoch)
            case m.Bye():
                self._forget(client)
                log.info("track %s left", client.track_id)
        if not isinstance(header, m.Bye):  # the engine must hear of it, and there is one for each hello at most
            self._check_waiting(client.routing_id, is_feed=frames > 0)
        self._post(client, packet, frames=frames)

    def _check_waiting(self, routing_id: bytes, *, is_feed: bool) -> None:
        """Raise DemonError `E_LIMIT` if a message of this client cannot wait: there are too many, or too many frames of feed."""
        messages, frames = self._worker.inbox.waiting(routing_id)
        if messages >= MAX_WAITING:
            raise DemonError("E_LIMIT", f"{MAX_WAITING} messages of this track wait already")
        if is_feed and frames >= MAX_WAITING_FRAMES:
            raise DemonError("E_LIMIT", f"{frames} frames of this track wait already: its credit is {INPUT_CREDIT}")

    def _post(self, client: Client, packet: Packet, seat: Seat | None = None, frames: int = 0) -> None:
        is_urgent = not isinstance(packet.header, m.ORDERED)
        item = Item(client.track_id, packet, seat)
        self._worker.inbox.put(client.routing_id, item, is_urgent=is_urgent, frames=frames)

    def _greet(self, routing_id: bytes, old: Client | None, hello: m.Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise DemonError("E_PROTOCOL_VERSION", version_mismatch(hello.protocol))
        if not hello.is_rate_valid():
            raise DemonError("E_SAMPLE_RATE", f"{hello.rate} Hz is not a multiple of 25 from {MIN_RATE} to {MAX_RATE}")
        self._check_waiting(routing_id, is_feed=False)  # also of one that comes and goes
        if old:
            self._forget(old)
            self._post(old, Packet(m.Bye()))
        elif len(self._clients) >= MAX_TRACKS:
            raise DemonError("E_BUSY", f"this server takes {MAX_TRACKS} tracks")
        client = Client(routing_id, hello, time.monotonic())
        self._clients[routing_id] = self._by_ticket[client.audio_id] = client
        log.info("track %s: %s at %d Hz", client.track_id, hello.client, hello.rate)
        self._post(client, Packet(hello), Seat(client.ticket, "none"))

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
                self._send(self._sockets.control, client.routing_id, Packet(event.what))
            if event.ends_track:
                self._forget(client)

    def _send_windows(self) -> None:
        for client in self._clients.values():
            while window := client.due():
                header = m.Window(window.epoch, window.take, window.frame, window.count)
                if not self._send(self._sockets.audio, client.audio_id, Packet(header, window.audio)):
                    break
                client.mark_sent(window, time.monotonic())

    def _send(self, socket: zmq.Socket, routing_id: bytes, packet: Packet) -> bool:
        """Whether the message is on its way; False if the client's queue is full or it has gone (it will say hello again)."""
        try:
            socket.send_multipart([routing_id, *encode(packet)], zmq.DONTWAIT)
            return True
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False

    def _forget(self, client: Client) -> None:
        """A client has gone; the engine is told by whoever calls this."""
        self._clients.pop(client.routing_id, None)
        self._by_ticket.pop(client.audio_id, None)

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for client in [c for c in self._clients.values() if now - c.last_heard > FORGET_AFTER_S]:
            log.info("track %s fell silent", client.track_id)
            self._forget(client)
            self._post(client, Packet(m.Bye()))
