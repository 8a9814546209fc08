# SPDX-License-Identifier: Apache-2.0
"""The server's two ROUTER sockets, and how its threads wake the one that owns them (SPEC.md, section 1)."""

from __future__ import annotations

import contextlib

import zmq

from engine_server.serve.endpoint import audio_endpoint, is_any_port
from shared_protocol.codec import Packet, encode
from shared_protocol.errors import DemonError

MAX_CONTROL_BYTES = 64 * 2**10
MAX_AUDIO_BYTES = 4 * 2**20
"""Of a part: 64 frames of stereo at 192 kHz, the largest that a client may send, have 3.75 MiB."""
CONTROL_QUEUE = 256
AUDIO_QUEUE = 8
"""Messages that wait in ZeroMQ for one peer: what counts against its credit waits here otherwise, and can still be dropped."""
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 5000
HANDSHAKE_MS = 5000
FAREWELL_MS = 500
"""What a closing server gives its last messages."""
PAIRS_TRIED = 64


class ServerSockets:
    """`wake` may be called from one other thread; all else belongs to the thread that serves."""

    def __init__(self, endpoint: str) -> None:
        """Bind both. Raises DemonError `E_BIND`."""
        self._context = zmq.Context()
        try:
            self.control, self.audio = self._bind(endpoint)
        except BaseException:
            self._context.destroy(linger=0)
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

    def close(self) -> None:
        """Give the last control messages a moment to leave, then close everything."""
        self.control.close(linger=FAREWELL_MS)
        self._context.destroy(linger=0)

    def _bind(self, endpoint: str) -> tuple[zmq.Socket, zmq.Socket]:
        """Control at the endpoint and audio at the next port. Where any port will do, one whose next is free."""
        is_any = is_any_port(endpoint)
        for _ in range(PAIRS_TRIED if is_any else 1):
            control = bind_router(self._context, endpoint, MAX_CONTROL_BYTES, CONTROL_QUEUE)
            place = audio_endpoint(control.getsockopt_string(zmq.LAST_ENDPOINT))
            try:
                return control, bind_router(self._context, place, MAX_AUDIO_BYTES, AUDIO_QUEUE)
            except DemonError:
                control.close(linger=0)
                if not is_any:
                    raise
        raise DemonError("E_BIND", f"{endpoint}: no two ports in a row are free")


def bind_router(context: zmq.Context, endpoint: str, most_bytes: int, queue: int) -> zmq.Socket:
    """A ROUTER for parts of at most that size, and as many messages waiting for a peer. Raises DemonError `E_BIND`."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise DemonError("E_BIND", f"{endpoint}: {error.strerror}; is another server running?") from error
    return socket


def send_packet(socket: zmq.Socket, routing_id: bytes, packet: Packet) -> bool:
    """Whether the message is on its way; False if the peer's queue is full or it has gone (it will say hello again)."""
    try:
        socket.send_multipart([routing_id, *encode(packet)], zmq.DONTWAIT)
        return True
    except zmq.ZMQError as error:
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise
        return False
