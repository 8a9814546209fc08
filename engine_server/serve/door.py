# SPDX-License-Identifier: Apache-2.0
"""Which connections of a listening socket may stay. ZeroMQ itself accepts until the process has no file descriptor left.

A peer that opens a connection and says nothing holds a descriptor until `HANDSHAKE_IVL`; who opens them faster than that
takes all. So the door counts, and when there are too many closes one: of the address that holds the most, the oldest that has
not yet sent enough to have proved anything; and if all have, the newest. Whoever comes from another address is never the one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import zmq

MOST_CONNECTIONS = 512
"""Per socket: 64 tracks, each with an old connection that is not closed yet, four times over."""
HANDSHAKE_BYTES = 300
"""More than a greeting (64) and CURVE's first command (202), which only who has the server's public key can make: ZeroMQ closes
a connection whose first command is wrong. A peer without CURVE has sent its greeting, and a hello or something as long."""
QUEUED_EVENTS = 2_000
"""By so many connections ZeroMQ's thread may be ahead of the door; then it waits."""
TELL_EVERY_S = 10.0
NAMED_S = 1.0
"""So long a connection is known to be of whoever has spoken by it."""
_EVENT = struct.Struct("=HI")
_NO_LINGERING = struct.pack("ii", 1, 0)
_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128
"""Where Linux's `struct tcp_info` has `tcpi_bytes_received`."""
log = logging.getLogger("demon.security")


@dataclass
class Connection:
    """A connection that was accepted and not closed."""

    handle: int
    address: str
    is_proved: bool = False
    """It has sent more than anybody could."""
    is_cut: bool = False
    owner: bytes | None = None
    """The routing id of whoever has spoken by it last, and is known; when it did."""
    claimed_at: float = -math.inf
    seen_bytes: int = 0
    """Received when it was last accused of a flood."""


def choose(connections: Iterable[Connection], has_proved: Callable[[Connection], bool]) -> Connection | None:
    """Which of too many connections (oldest first) to close; None if all are being closed."""
    remaining = [one for one in connections if not one.is_cut]
    if not remaining:
        return None
    crowded = Counter(one.address for one in remaining).most_common(1)[0][0]
    candidates = [one for one in remaining if one.address == crowded]
    for one in candidates:
        one.is_proved = one.is_proved or has_proved(one)
        if not one.is_proved:
            return one
    return candidates[-1]


class Door:
    """Watches one bound socket from a thread of its own. Make, `start` and `stop` it on the socket's thread.

    ZeroMQ's own thread waits for this one when it falls behind, so that `most + QUEUED_EVENTS` bounds the connections however
    fast they come.
    Does nothing for sockets that are not TCP.
    """

    def __init__(self, guarded: zmq.Socket[bytes], *, most: int = MOST_CONNECTIONS) -> None:
        self._guarded = guarded
        self._most = most
        self._connections: dict[int, Connection] = {}
        self._lock = threading.Lock()
        self._closed, self._told_at = 0, -TELL_EVERY_S
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        # Its queue holds `QUEUED_EVENTS`, ZeroMQ's default for both of its ends.
        self._events: zmq.Socket[bytes] = guarded.get_monitor_socket(
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
        )

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer. The socket is still open."""
        self._guarded.disable_monitor()  # which ends the thread
        self._thread.join()

    @property
    def count(self) -> int:
        """Connections held now. Any thread."""
        with self._lock:
            return len(self._connections)

    def close_connection(self, handle: int) -> None:
        """Close the connection that a message came from (`frame.get(zmq.SRCFD)`), for one whose key was revoked. Any thread."""
        with self._lock:
            if one := self._connections.get(handle):
                self._close(one)

    def claim(self, handle: int, routing_id: bytes) -> None:
        """The connection that a message came from is its sender's, who is known: another's flood does not end it. Any thread."""
        with self._lock:
            if one := self._connections.get(handle):
                one.owner, one.claimed_at = routing_id, time.monotonic()

    def end_flood(self, handle: int, routing_id: bytes, size: int) -> None:
        """Close the connection by which a flood comes, of which so many bytes were refused since it was last told of. Any thread.

        What is read of a flood may be of a connection that has ended, whose number has since been given to somebody else. So
        its sender must have spoken by this one, or nobody else just now, and this one must have received as much meanwhile.
        """
        with self._lock:
            one = self._connections.get(handle)
            if one is None or one.is_cut:
                return
            is_anothers = one.owner != routing_id and time.monotonic() - one.claimed_at < NAMED_S
            if _has_received(one, size) and not is_anothers:
                self._close(one, resets=True)

    def _run(self) -> None:
        try:
            while True:
                content, *_ = self._events.recv_multipart()
                kind, handle = _EVENT.unpack(content)
                if kind == zmq.EVENT_MONITOR_STOPPED:
                    return
                with self._lock:
                    self._note(kind, handle)
        except zmq.ContextTerminated:
            pass
        except Exception:  # then ZeroMQ's thread would wait for ever: better no bound than no server
            log.exception("connections are no longer counted")
            while self._events.recv_multipart():
                pass
        finally:
            self._events.close(linger=0)

    def _note(self, kind: int, handle: int) -> None:
        if kind == zmq.EVENT_DISCONNECTED:
            self._connections.pop(handle, None)
            return
        self._connections.pop(handle, None)  # a handle that is used again: its end was not seen
        with _borrowed(handle) as borrowed:
            if borrowed is None or borrowed.family not in (socket.AF_INET, socket.AF_INET6):
                return
            with contextlib.suppress(OSError):
                self._connections[handle] = Connection(handle, str(borrowed.getpeername()[0]))
        if sum(not one.is_cut for one in self._connections.values()) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        if one := choose(self._connections.values(), _has_proved):
            self._close(one)
            self._closed += 1
            now = time.monotonic()
            if now - self._told_at >= TELL_EVERY_S:
                log.warning(
                    "E_BUSY: %d connections closed: too many at once, the last from %s", self._closed, one.address
                )
                self._told_at, self._closed = now, 0

    def _close(self, one: Connection, *, resets: bool = False) -> None:
        """Shut the connection down; ZeroMQ sees its end and closes it.

        resets: with an RST then, so that neither system keeps what is on the way.
        """
        one.is_cut = True
        with _borrowed(one.handle) as borrowed, contextlib.suppress(OSError):
            # ZeroMQ may have closed the connection and something else may have its number: cut none but those of this address.
            if borrowed is not None and borrowed.getpeername()[0] == one.address:
                if resets:
                    borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
                borrowed.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _borrowed(handle: int) -> Iterator[socket.socket | None]:
    """A second handle of a connection that belongs to ZeroMQ's thread; None if it is gone."""
    try:
        copy = os.dup(handle)
    except OSError:
        yield None
        return
    try:
        borrowed = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        yield None
        return
    with borrowed:
        yield borrowed


def _has_received(one: Connection, size: int) -> bool:
    """Whether it has received more than that since it was last asked; where the system does not tell, it may have."""
    received = _bytes_received(one)
    if received is None:
        return True
    before, one.seen_bytes = one.seen_bytes, received
    return received - before > size


def _has_proved(one: Connection) -> bool:
    """Whether it has sent more than anybody could; where the system does not tell, nobody has."""
    return (_bytes_received(one) or 0) > HANDSHAKE_BYTES


def _bytes_received(one: Connection) -> int | None:
    """How much it has sent, as far as the system tells."""
    with _borrowed(one.handle) as borrowed:
        if borrowed is None or not hasattr(socket, "TCP_INFO"):
            return None
        with contextlib.suppress(OSError, struct.error):
            info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0])
        return None
