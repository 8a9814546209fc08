# SPDX-License-Identifier: Apache-2.0
"""The server's two ROUTER sockets, and how its threads wake the one that owns them (SPEC.md, section 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import zmq

from engine_server.serve.door import Door
from engine_server.serve.endpoint import audio_endpoint, is_any_port
from engine_server.serve.keys import KeyStore
from engine_server.serve.security import HANDSHAKE_MS, Gate, secure, user_of
from shared_protocol.codec import Packet, encode
from shared_protocol.errors import DemonError

MAX_CONTROL_BYTES = 64 * 2**10
MAX_AUDIO_BYTES = 4 * 2**20
"""Of a part: 64 frames of stereo at 192 kHz, the largest that a client may send, have 3.75 MiB."""
CONTROL_QUEUE = 256
AUDIO_QUEUE = 8
"""Messages to one peer that wait in ZeroMQ: what counts against its credit waits here otherwise, and can still be dropped."""
GONE_S, ASKED_AGAIN_S = 10, 5
"""A silent connection is asked by TCP whether it is there, after so long and then every so often."""
GONE_MS = 30_000
"""One that answers nothing for so long is closed, when its track is forgotten, too (SPEC.md, section 5)."""
FAREWELL_MS = 500
"""What a closing server gives its last messages."""
PAIRS_TRIED = 64
DONTWAIT, DONTWAIT_MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
"""As numbers, for one part at a time: pyzmq's calls for whole messages combine flags as enums for every part."""


class Received(NamedTuple):
    """A message. user: the public key of its sender, where the server has keys."""

    routing_id: bytes
    frames: list[zmq.Frame]
    user: str

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(frame) for frame in self.frames)

    def parts(self) -> list[bytes]:
        """A copy, which takes longer than all else of a large message: of what is admitted only."""
        return [frame.bytes for frame in self.frames]


class ServerSockets:
    """`wake` may be called from one other thread; all else belongs to the thread that serves.

    keys: who may connect; None lets in everybody, which is for loopback. has_audio: without it the audio port is held, and nobody
    gets as far as a first message there.
    """

    def __init__(self, endpoint: str, keys: KeyStore | None = None, *, has_audio: bool = True) -> None:
        """Bind both. Raises DemonError `E_BIND`, `E_KEYS`."""
        self._context = zmq.Context()
        self._keys = keys
        # A limit of 0 bytes holds for handshakes, too. What is not read must not come: it would stay in ZeroMQ.
        self._audio_bytes = MAX_AUDIO_BYTES if has_audio else 0
        self._doors: dict[zmq.Socket, Door] = {}
        self.gate = Gate(self._context, keys) if keys else None
        try:
            if self.gate:
                self.gate.start()
            self.control, self.audio = self._bind(endpoint)
        except BaseException:
            self._end()
            raise
        self.endpoint = self.control.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_in, self._wake_out = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake_out.connect("inproc://wake")
        self._poller = zmq.Poller()
        for socket in (self.control, self.audio, self._wake_in):
            self._poller.register(socket, zmq.POLLIN)

    def wait(self, milliseconds: int) -> set[zmq.Socket]:
        """Wait for a message or a wake; the sockets that have something."""
        ready = dict(self._poller.poll(milliseconds))
        if self._wake_in in ready:
            with contextlib.suppress(zmq.Again):
                while True:
                    self._wake_in.recv(zmq.DONTWAIT)
        return {socket for socket in (self.control, self.audio) if socket in ready}

    def wake(self) -> None:
        """End a `wait`, now or at its next call."""
        with contextlib.suppress(zmq.Again):  # a full pair will wake the other end all the same
            self._wake_out.send(b"", zmq.DONTWAIT)

    def receive(self, socket: zmq.Socket) -> Received | None:
        """The next message of one of the two; None if there is none."""
        try:
            routing_id = socket.recv(DONTWAIT, copy=False)
        except zmq.Again:
            return None
        frames = [socket.recv(DONTWAIT, copy=False)]
        while frames[-1].more:
            frames.append(socket.recv(DONTWAIT, copy=False))
        return Received(routing_id.bytes, frames, user_of(frames) if self.gate else "")

    def cut(self, socket: zmq.Socket, received: Received) -> None:
        """End the connection that a message came from."""
        self._doors[socket].close_connection(received.frames[-1].get(zmq.SRCFD))

    def claim(self, socket: zmq.Socket, received: Received) -> None:
        """The connection that a message came from is its sender's: no other's flood ends it."""
        self._doors[socket].claim(received.frames[-1].get(zmq.SRCFD), received.routing_id)

    def end_flood(self, socket: zmq.Socket, received: Received, size: int) -> None:
        """End the connection that a flood comes by, if it still does. size: of what was refused since the last call."""
        self._doors[socket].end_flood(received.frames[-1].get(zmq.SRCFD), received.routing_id, size)

    def close(self) -> None:
        """Give the last control messages a moment to leave, then close everything."""
        self._end(farewell_ms=FAREWELL_MS)

    def _end(self, farewell_ms: int = 0) -> None:
        for socket, door in self._doors.items():
            door.stop()
            socket.close(linger=farewell_ms)
        if self.gate and self.gate.is_running():
            self.gate.stop()
        self._context.destroy(linger=0)

    def _bind(self, endpoint: str) -> tuple[zmq.Socket, zmq.Socket]:
        """Control at the endpoint and audio at the next port. Where any port will do, one whose next is free."""
        is_any = is_any_port(endpoint)
        for _ in range(PAIRS_TRIED if is_any else 1):
            control = self._guarded(endpoint, MAX_CONTROL_BYTES, CONTROL_QUEUE)
            place = audio_endpoint(control.getsockopt_string(zmq.LAST_ENDPOINT))
            try:
                return control, self._guarded(place, self._audio_bytes, AUDIO_QUEUE)
            except DemonError:
                self._doors.pop(control).stop()
                control.close(linger=0)
                if not is_any:
                    raise
        raise DemonError("E_BIND", f"{endpoint}: no two ports in a row are free")

    def _guarded(self, endpoint: str, most_bytes: int, queue: int) -> zmq.Socket:
        socket = make_router(self._context, endpoint, most_bytes, queue)
        if self._keys:
            secure(socket, self._keys)
        door = Door(socket)
        door.start()
        try:
            bind(socket, endpoint)
        except BaseException:
            door.stop()
            socket.close(linger=0)
            raise
        self._doors[socket] = door
        return socket


def make_router(context: zmq.Context, endpoint: str, most_bytes: int, queue: int) -> zmq.Socket:
    """A ROUTER to be bound there, for parts of at most that size, and as many messages that wait for a peer to take them."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.SNDHWM, queue)
    # No bound and no heartbeats of ZeroMQ's own: a connection that breaks while its queue is full is never closed if its
    # peer comes back by another, and the next heartbeat, either end's, ends the process (libzmq 4.3.5, issues 3937 and
    # 4364). What may wait is bounded by credit and by `Meter`; who is gone TCP tells.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, GONE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, ASKED_AGAIN_S)
    socket.setsockopt(zmq.TCP_MAXRT, GONE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    return socket


def bind(socket: zmq.Socket, endpoint: str) -> None:
    """Listen. Raises DemonError `E_BIND`."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise DemonError("E_BIND", f"{endpoint}: {error.strerror}; is another server running?") from error


def send_packet(socket: zmq.Socket, routing_id: bytes, packet: Packet) -> bool:
    """As `send_parts`, of a message that is encoded now."""
    return send_parts(socket, routing_id, encode(packet))


def send_parts(socket: zmq.Socket, routing_id: bytes, parts: Sequence[bytes]) -> bool:
    """Whether the message is on its way; False if the peer's queue is full or it has gone (it will say hello again)."""
    try:
        socket.send(routing_id, DONTWAIT_MORE)
        for part in parts[:-1]:
            socket.send(part, DONTWAIT_MORE)
        socket.send(parts[-1], DONTWAIT)
        return True
    except zmq.ZMQError as error:
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise
        return False
