# SPDX-License-Identifier: Apache-2.0
"""One endpoint for several engines: a hello is answered with the engine that has the most room, and nothing else passes here."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine_server.serve.keys import KeyStore
from engine_server.serve.limits import Accounts, FloodError
from engine_server.serve.logs import short_id
from engine_server.serve.report import SERVER, GatewayReport, PlaceReport, this_process, write_report
from engine_server.serve.security import check_bind
from engine_server.serve.sockets import Received, ServerSockets, send_packet
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE

POLL_MS = 50
PATIENCE_S = 3.0
"""A hello waits so long for an engine that starts; its sender says it again then."""
UNSEEN_S = 5.0
"""A track that was sent to an engine counts there for so long, although the engine does not report it yet."""
REFUSED_S = 10.0
"""Who comes back so soon from an engine that is full was refused there: a client tries again after 2 s."""
SILENT_S = 3.0
"""An engine of which a fleet has heard nothing for so long is no place for a track: while it serves it tells every second."""
LOST_S = 15.0
"""One that has said nothing for so long hangs, or is out of reach: a fleet replaces it. On one machine or on many."""
REMEMBERED = 4096
MESSAGES_AT_ONCE = 256
log = logging.getLogger("demon.gateway")


@dataclass(frozen=True)
class Place:
    """An engine that serves. endpoint, key: as in `redirect` (no key is the gateway's); tracks: how many it reports.

    capacity: how many it takes.
    """

    endpoint: str
    key: str
    tracks: int
    capacity: int


class Fleet(Protocol):
    """Where engines come from. Any thread may ask."""

    def places(self) -> Sequence[Place]:
        """The engines that serve now."""
        ...


class Gateway:
    """Binds at construction; `run` serves on the calling thread until `stop` is called from any other.

    Raises DemonError `E_BIND`, `E_KEYS`.
    """

    def __init__(self, endpoint: str, *, store: KeyStore | None = None) -> None:
        store = store or KeyStore()
        keys = store if check_bind(endpoint, store) else None
        self._sockets = ServerSockets(endpoint, keys, has_audio=False)  # tracks have theirs at the engines
        self._socket = self._sockets.control
        self._key = keys.server().public if keys else ""
        self.endpoint = self._sockets.endpoint
        self._accounts = Accounts()
        self._stopping = threading.Event()
        self._waiting: dict[bytes, float] = {}
        """Routing ids whose hello has no answer yet, and when it came."""
        self._sent: OrderedDict[bytes, tuple[str, float, int]] = OrderedDict()
        """Where a routing id was sent last, when, and how many tracks that engine reported then."""
        self._redirects = 0
        self._refusals: Counter[str] = Counter()

    def run(self, fleet: Fleet) -> None:
        """Send tracks to the engines of a fleet until stopped, then close the socket."""
        try:
            while not self._stopping.is_set():
                if self._socket.poll(POLL_MS):
                    self._receive_some(fleet)
                if self._waiting:
                    self._answer_waiting(fleet.places(), time.monotonic())
        finally:
            self._sockets.close()

    def stop(self) -> None:
        """Make `run` return. Any thread, also a signal handler."""
        self._stopping.set()

    def _receive_some(self, fleet: Fleet) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            received = self._sockets.receive(self._socket)
            if received is None:
                return
            try:
                self._receive(received, fleet)
            except DemonError as error:
                if isinstance(error, FloodError):
                    self._sockets.end_flood(self._socket, received, error.size)
                self._refusals[error.code] += 1
                if error.code != "E_RATE":
                    answer = m.Error(error.code, error.message[:256], 0)
                    send_packet(self._socket, received.routing_id, Packet(answer))
            except Exception:  # a fault of ours must not end the engines
                log.exception("a message of %s is not answered", short_id(received.routing_id))

    def _receive(self, received: Received, fleet: Fleet) -> None:
        routing_id, user = received.routing_id, received.user
        account = self._accounts.of(user or routing_id)
        account.meter.admit(received.size)
        if self._sockets.gate and not self._sockets.gate.is_allowed(user):
            self._sockets.cut(self._socket, received)
            raise DemonError("E_KEYS", "this key is not allowed any more")
        header = decode(received.parts(), rate=MAX_RATE, lane_count=0).header
        self._sockets.claim(self._socket, received)
        match header:
            case m.Hello():
                self._waiting[routing_id] = time.monotonic()
            case m.Status():
                account.ask()
                send_packet(self._socket, routing_id, Packet(write_report(self._report(fleet.places()))))
            case _:
                raise DemonError("E_UNKNOWN_TRACK", "say hello first")

    def _report(self, places: Sequence[Place]) -> GatewayReport:
        return GatewayReport(
            server=SERVER,
            process=this_process(),
            redirects=self._redirects,
            refusals=dict(self._refusals),
            engines=[
                PlaceReport(place.endpoint, place.key or self._key, place.tracks, place.capacity) for place in places
            ],
        )

    def _answer_waiting(self, places: Sequence[Place], now: float) -> None:
        for routing_id, since in list(self._waiting.items()):
            if now - since > PATIENCE_S:
                del self._waiting[routing_id]
            elif places:
                del self._waiting[routing_id]
                self._answer(routing_id, places, now)

    def _answer(self, routing_id: bytes, places: Sequence[Place], now: float) -> None:
        place = self._choose(routing_id, places, now)
        if place is None:
            total = sum(place.capacity for place in places)
            send_packet(
                self._socket, routing_id, Packet(m.Error("E_BUSY", f"these engines take {total} tracks in all", 0))
            )
            return
        log.info("track %s goes to %s", short_id(routing_id), place.endpoint)
        self._redirects += 1
        self._sent[routing_id] = place.endpoint, now, place.tracks
        self._sent.move_to_end(routing_id)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        send_packet(self._socket, routing_id, Packet(m.Redirect(place.endpoint, place.key or self._key)))

    def _choose(self, routing_id: bytes, places: Sequence[Place], now: float) -> Place | None:
        """Where it was before, if that engine is there and has not just refused it; else where the most room is."""
        # What an engine had when the first of those on the way was sent there, and they: what it reports may hold them already.
        expected: dict[str, int] = {}
        for other, (endpoint, since, tracks) in self._sent.items():
            if other != routing_id and now - since < UNSEEN_S:
                expected[endpoint] = expected.get(endpoint, tracks) + 1

        def room(place: Place) -> int:
            return place.capacity - max(place.tracks, expected.get(place.endpoint, 0))

        before, sent_at, _ = self._sent.get(routing_id, ("", 0.0, 0))
        known = next((place for place in places if place.endpoint == before), None)
        # It may be one of those that fill the engine, which keeps a silent track for a while: only the engine knows.
        if known and (room(known) > 0 or now - sent_at > REFUSED_S):
            return known
        best = max(places, key=room)
        return best if room(best) > 0 else known
