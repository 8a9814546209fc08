# SPDX-License-Identifier: Apache-2.0
"""A peer that speaks ZeroMQ's protocol (ZMTP 3.1, no keys) by hand, byte by byte, for what a library would not send."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
SETTLING_S = 0.01


def command(name: bytes, content: bytes) -> bytes:
    body = bytes([len(name)]) + name + content
    return struct.pack("BB", 4, len(body)) + body


def message(parts: Sequence[bytes]) -> bytes:
    """Of parts below 256 bytes."""
    return b"".join(struct.pack("BB", i + 1 < len(parts), len(part)) + part for i, part in enumerate(parts))


PING = command(b"PING", b"\0\0")
"""A heartbeat of the protocol's own."""


def connect(port: int, routing_id: bytes) -> socket.socket:
    """A DEALER's connection after its handshake; libzmq ends one that says more before that."""
    peer = socket.create_connection(("127.0.0.1", port))
    ready = b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", routing_id))
    )
    peer.sendall(GREETING + command(b"READY", ready))
    _, size = _receive(peer, len(GREETING) + 2)[-2:]
    _receive(peer, size)
    return peer


def _receive(peer: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        if not (more := peer.recv(size - len(content))):
            raise ConnectionError("the handshake was refused")
        content += more
    return content


def break_off(peer: socket.socket) -> None:
    """End it with an RST, once what was sent has been taken."""
    time.sleep(SETTLING_S)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def is_cut_off(peer: socket.socket) -> bool:
    """Whether the other end closes a connection."""
    peer.settimeout(20)
    with contextlib.suppress(ConnectionError):
        while peer.recv(4096):
            pass
    return True
