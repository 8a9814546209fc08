# SPDX-License-Identifier: Apache-2.0
"""The ZeroMQ server: its thread, and the rules of SPEC.md, section 5."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import msgspec
import zmq

from engine_server.serve.client import Client
from engine_server.serve.clients import MAX_TRACKS, Clients
from engine_server.serve.keys import KeyStore
from engine_server.serve.limits import FloodError, Limits, TokenBucket
from engine_server.serve.logs import short_id
from engine_server.serve.report import write_report
from engine_server.serve.reporter import Reporter
from engine_server.serve.security import check_bind
from engine_server.serve.sockets import Received, ServerSockets, send_packet, send_parts
from engine_server.serve.worker import INPUT_CREDIT, NO_POSITION, Event, Failed, Item, Reloaded, Seat, Worker
from engine_server.tracks.engine import Engine
from engine_server.tracks.windows import AudioWindow
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, version_mismatch
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE, MIN_RATE

MAX_HELD_BYTES = 2**30
"""Of all tracks: messages that wait for the engine's thread."""
POLL_MS = 250
LOOK_FOR_SILENT_EVERY_S = 1.0
CONTROL_AT_ONCE, AUDIO_AT_ONCE = 256, 32
"""Messages that are received before anything else is looked at: control is small, and never waits behind much audio."""
MAX_WAITING = 1024
"""Messages of a client that may wait for the engine's thread."""
MAX_WAITING_FRAMES = 2 * INPUT_CREDIT
"""Frames of an epoch's feed: what was sent before a lost connection may come once more."""
TELL_TRACKS_EVERY_S = 1.0
TELL_LOADING_EVERY_S, TELL_LOADING_FOR_S = 5.0, 600.0
"""A client gives a bounce up after 20 s without a sign; a load that takes longer than the second hangs."""
COMPLAINTS_PER_S, COMPLAINTS_AT_ONCE = 20.0, 200.0
"""Lines of the log about bad messages; and answers to a flood."""
log = logging.getLogger("demon.serve")


class Server:
    """Binds at construction; `run` serves on the calling thread until `stop` is called from any other.

    store: the keys, which addresses beyond loopback need; the user's own by default. on_tracks hears how many tracks there are,
    and how many there may be, whenever the number changes and every second; on the thread that serves. Raises DemonError
    `E_BIND` if the endpoint needs keys and there are none, or one of its two ports is taken, and `E_KEYS`.
    """

    def __init__(
        self,
        engine: Engine,
        endpoint: str,
        *,
        store: KeyStore | None = None,
        limits: Limits | None = None,
        on_tracks: Callable[[int, int], None] | None = None,
    ) -> None:
        store = store or KeyStore()
        self._sockets = ServerSockets(endpoint, store if check_bind(endpoint, store) else None)
        self.endpoint = self._sockets.endpoint
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.checkpoint, self.backend = engine.checkpoint, engine.backend
        self._limits = limits or Limits()
        self._clients = Clients(self._limits)
        self._complaints = TokenBucket(COMPLAINTS_PER_S, COMPLAINTS_AT_ONCE)
        self._worker = Worker(engine, self._emit)
        self._reporter = Reporter(self._worker)
        self._on_tracks = on_tracks
        self._told_tracks, self._told_tracks_at = -1, 0.0
        self._told_loading_at = 0.0
        self._look_for_silent_at = 0.0
        self._load: Callable[[], Engine] | None = None

    def run(self) -> None:
        """Serve until stopped; then tell the clients, and close everything. Raises DemonError `E_ENGINE` if the engine fails."""
        self._worker.start()
        self._reporter.begin()
        control, audio = self._sockets.control, self._sockets.audio
        has_more = False
        try:
            while not self._stopping.is_set():
                self._begin_reload()
                ready = self._sockets.wait(0 if has_more else POLL_MS)
                if control in ready:
                    self._receive_some(control, CONTROL_AT_ONCE)
                if audio in ready:
                    self._receive_some(audio, AUDIO_AT_ONCE)
                self._take_events()
                has_more = self._send_windows()
                self._forget_silent()
                self._tell_loading()
                self._tell_tracks()
        finally:
            for client in self._clients:
                send_packet(control, client.routing_id, Packet(m.Closing("the engine stops")))
            self._worker.stop()
            self._sockets.close()

    def stop(self) -> None:
        """Make `run` return. Any thread, also a signal handler."""
        self._stopping.set()

    def reload(self, load: Callable[[], Engine]) -> None:
        """Serve with another engine as soon as `load` has made it; no track is lost. Any thread, also a signal handler."""
        self._load = load

    def _begin_reload(self) -> None:
        if self._load:
            load, self._load = self._load, None
            self._worker.reload(load)

    def _end_reload(self, engine: Engine) -> None:
        """Tell every track to say hello again."""
        self.checkpoint, self.backend = engine.checkpoint, engine.backend
        self._reporter.reloads += 1
        for client in self._clients:
            self._clients.forget(client)
            self._post(client, Packet(m.Bye()))  # its hello may have reached the new engine already
            send_packet(self._sockets.control, client.routing_id, Packet(m.Closing("the engine was loaded anew")))
        log.info("%s %s serves from now on", engine.checkpoint.name, engine.checkpoint.content_hash[:12])

    def _emit(self, event: Event) -> None:
        """Queue an event and wake the socket thread. The worker's thread only: it alone wakes the sockets."""
        self._events.put(event)
        self._sockets.wake()

    def _receive_some(self, socket: zmq.Socket, most: int) -> None:
        """Take what has come, but no more than others can wait for."""
        for _ in range(most):
            received = self._sockets.receive(socket)
            if received is None:
                return
            self._receive(socket, received)

    def _receive(self, socket: zmq.Socket, received: Received) -> None:
        routing_id, user, size = received.routing_id, received.user, received.size
        is_audio = socket is self._sockets.audio
        client, epoch = self._clients.find(routing_id, is_audio=is_audio), 0
        try:
            self._check_user(socket, received, client)
            self._clients.meter(routing_id, user, client).admit(size)
            rate, lane_count = (client.hello.rate, len(client.hello.lanes)) if client else (MAX_RATE, 0)
            packet = decode(received.parts(), rate=rate, lane_count=lane_count)
            epoch = getattr(packet.header, "epoch", 0)
            if is_audio != isinstance(packet.header, m.ORDERED):
                raise DemonError("E_UNKNOWN_MESSAGE", "this message belongs to the other socket")
            if client or isinstance(packet.header, m.Hello | m.Status):
                self._sockets.claim(socket, received)
            if isinstance(packet.header, m.Hello):
                self._greet(routing_id, user, client, packet.header)
            elif isinstance(packet.header, m.Status):
                self._tell_state(routing_id, user)
            elif client is None:
                raise DemonError("E_UNKNOWN_TRACK", "say hello first")
            else:
                self._handle(client, packet, size)
        except DemonError as error:
            if isinstance(error, FloodError):
                self._sockets.end_flood(socket, received, error.size)
            if client is None and error.code in ("E_PAYLOAD_SIZE", "E_NOT_FINITE"):
                error = DemonError("E_UNKNOWN_TRACK", "say hello first")
            self._refuse(socket, routing_id, client, error, epoch)
        except Exception as error:  # a fault of ours must not end the other tracks
            log.exception("track %s", short_id(routing_id))
            fault = DemonError("E_ENGINE", f"{type(error).__name__}: {error}")
            self._refuse(socket, routing_id, client, fault, epoch)

    def _check_user(self, socket: zmq.Socket, received: Received, client: Client | None) -> None:
        """Where there are keys: the sender's is allowed still, and it is the one that said hello. Raises DemonError `E_KEYS`."""
        gate, user = self._sockets.gate, received.user
        if gate is None:
            return
        if not gate.is_allowed(user):
            self._sockets.cut(socket, received)
            if client and client.user == user:
                self._clients.forget(client)
                self._post(client, Packet(m.Bye()))
            raise DemonError("E_KEYS", "this key is not allowed any more")
        if client and client.user != user:
            raise DemonError("E_KEYS", "this track belongs to another key")

    def _refuse(
        self, socket: zmq.Socket, routing_id: bytes, client: Client | None, error: DemonError, epoch: int
    ) -> None:
        """Say what is wrong: by the control socket, if the client is known. A flood is not answered message by message."""
        self._reporter.refusals[error.code] += 1
        may_complain = self._complaints.take()
        if may_complain:
            log.warning("track %s: %s", client.track_id if client else short_id(routing_id), error)
        elif error.code == "E_RATE":
            return
        if client is not None and error.code != "E_KEYS":
            socket, routing_id = self._sockets.control, client.routing_id
        send_packet(socket, routing_id, Packet(m.Error(error.code, error.message[:256], epoch)))

    def _handle(self, client: Client, packet: Packet, size: int) -> None:
        now, header = time.monotonic(), packet.header
        client.last_heard = now
        match header:
            case m.Ping(number, epoch, wanted, received):
                client.acknowledge(epoch, wanted, received, now)
                answer = msgspec.structs.replace(self._position(client), number=number)
                send_packet(self._sockets.control, client.routing_id, Packet(answer))
                if not client.has_news(epoch, wanted, now):
                    return
            case m.Feed():
                assert packet.lanes is not None
                client.check_feed(packet.lanes)
            case m.Resend():
                client.resend(now)
                return
            case m.Drop(epoch):
                client.drop(epoch)
            case m.Bye():
                self._clients.forget(client)
                log.info("track %s left", client.track_id)
        if isinstance(header, m.Feed) and not self._admit_feed(client, header):
            return
        if not isinstance(header, m.Bye):  # the engine must hear of it, and there is one for each hello at most
            self._check_waiting(client.routing_id, size)
        self._post(client, packet, size=size)

    def _position(self, client: Client) -> m.Pong:
        """What the engine has of a track, and what has come since its last step began: a step may take longer than a client waits
        to hear of what it has begun."""
        taken = self._worker.positions.get(client.track_id, NO_POSITION)
        begun = self._worker.inbox.begun(client.routing_id)
        if not begun:
            return taken
        known = sorted((begun | dict(zip(taken.epochs, taken.expected, strict=True))).items())[-m.MAX_OPEN_EPOCHS :]
        epochs, expected = [list(column) for column in zip(*known, strict=True)]
        return msgspec.structs.replace(taken, epochs=epochs, expected=expected)

    def _admit_feed(self, client: Client, feed: m.Feed) -> bool:
        """False for more than may wait of what waits already: a client repeats it until the engine has taken some.

        Raises DemonError `E_LIMIT` for frames beyond that.
        """
        fed = self._worker.inbox.fed(client.routing_id, feed.epoch)
        if fed.frames < MAX_WAITING_FRAMES:
            return True
        if feed.frame + feed.count > fed.end:
            raise DemonError("E_LIMIT", f"{fed.frames} frames of this epoch wait already: its credit is {INPUT_CREDIT}")
        return False

    def _check_waiting(self, routing_id: bytes, size: int) -> None:
        """Raise DemonError `E_LIMIT` if a message of this client cannot wait: there are too many."""
        inbox = self._worker.inbox
        waiting = inbox.waiting(routing_id)
        if waiting.messages >= MAX_WAITING:
            raise DemonError("E_LIMIT", f"{MAX_WAITING} messages of this track wait already")
        if waiting.size + size > self._limits.held_bytes or inbox.size + size > MAX_HELD_BYTES:
            raise DemonError("E_LIMIT", f"{waiting.size} bytes of this track and {inbox.size} of all wait already")

    def _post(self, client: Client, packet: Packet, seat: Seat | None = None, *, size: int = 0) -> None:
        header = packet.header
        is_urgent = not isinstance(header, m.ORDERED)
        epoch, frames, end, begins_at = 0, 0, 0, None
        if isinstance(header, m.Feed):
            epoch, frames, end = header.epoch, header.count, header.frame + header.count
        elif isinstance(header, m.Begin):
            epoch, begins_at = header.epoch, header.feed_from
        self._worker.inbox.put(
            client.routing_id,
            Item(client.track_id, packet, time.monotonic(), seat),
            is_urgent=is_urgent,
            epoch=epoch,
            frames=frames,
            end=end,
            begins_at=begins_at,
            size=size,
        )

    def _greet(self, routing_id: bytes, user: str, old: Client | None, hello: m.Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise DemonError("E_PROTOCOL_VERSION", version_mismatch(hello.protocol))
        if not hello.is_rate_valid():
            raise DemonError("E_SAMPLE_RATE", f"{hello.rate} Hz is not a multiple of 25 from {MIN_RATE} to {MAX_RATE}")
        self._check_waiting(routing_id, 0)  # also of one that comes and goes
        if old:
            self._clients.forget(old)
            self._post(old, Packet(m.Bye()))
        client = self._clients.open(routing_id, user, hello, time.monotonic(), old=old)
        log.info("track %s: %s at %d Hz", client.track_id, hello.client, hello.rate)
        self._post(client, Packet(hello), Seat(client.ticket, hello.packing))

    def _tell_state(self, routing_id: bytes, user: str) -> None:
        """Answer a `status`: of the tracks of other keys only those may know who have the server's own."""
        self._clients.account(routing_id, user).ask()
        gate = self._sockets.gate
        is_own = gate is None or gate.is_own(user)
        report = self._reporter.report(
            self.checkpoint,
            self.backend,
            self._clients,
            may_tell=lambda client: is_own or client.user == user,
            name_of=lambda key: gate.name_of(key) if gate else "",
            is_own=is_own,
        )
        send_packet(self._sockets.control, routing_id, Packet(write_report(report)))

    def _take_events(self) -> None:
        if self._events.empty():
            return
        by_track = {client.track_id: client for client in self._clients}
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event.what, Reloaded):
                self._end_reload(event.what.engine)
                by_track = {}
                continue
            if isinstance(event.what, Failed):
                raise event.what.reason
            client = by_track.get(event.track)
            if client is None:
                continue
            if isinstance(event.what, AudioWindow):
                client.deliver(event.what)
            else:
                send_packet(self._sockets.control, client.routing_id, Packet(event.what))
            if event.ends_track:
                self._clients.forget(client)

    def _send_windows(self) -> bool:
        """Send each client the next window that it has credit for. Whether any was sent: then there may be more.

        One each, since packing takes a millisecond or two: however many wait, control messages come in between.
        """
        has_sent = False
        for client in self._clients:
            window = client.due()
            if window and send_parts(self._sockets.audio, client.audio_id, client.encoded(window)):
                client.mark_sent(window, time.monotonic())
                has_sent = True
        return has_sent

    def _tell_loading(self) -> None:
        """Bounces wait while another engine is loaded: without a sign of it their clients would give up (SPEC.md, section 5)."""
        since, now = self._worker.loading_since, time.monotonic()
        if (
            since is None
            or now - since > TELL_LOADING_FOR_S
            or now - max(since, self._told_loading_at) < TELL_LOADING_EVERY_S
        ):
            return
        self._told_loading_at = now
        for client in self._clients:
            position = self._position(client)
            for epoch, expected in zip(position.epochs, position.expected, strict=True):
                progress = m.Progress(epoch, expected, 0, 0)
                send_packet(self._sockets.control, client.routing_id, Packet(progress))

    def _tell_tracks(self) -> None:
        now = time.monotonic()
        if len(self._clients) != self._told_tracks or now - self._told_tracks_at >= TELL_TRACKS_EVERY_S:
            self._told_tracks, self._told_tracks_at = len(self._clients), now
            if self._on_tracks:
                self._on_tracks(self._told_tracks, MAX_TRACKS)

    def _forget_silent(self) -> None:
        now = time.monotonic()
        if now < self._look_for_silent_at:
            return
        self._look_for_silent_at = now + LOOK_FOR_SILENT_EVERY_S
        for client in self._clients.silent(now):
            log.info("track %s fell silent", client.track_id)
            self._clients.forget(client)
            self._post(client, Packet(m.Bye()))
