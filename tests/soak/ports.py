# SPDX-License-Identifier: Apache-2.0
"""Pairs of adjacent TCP ports: the engine's control on the first and its audio on the second."""

from __future__ import annotations

import contextlib
import random
import socket

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 31_000
"""Below the ports that Linux gives to outgoing connections: none of those may take a port while its server is away,
and a client that keeps trying to reach it would in time be connected to itself."""
TRIES = 200


def free_port_pair(count: int = 2) -> int:
    """A port p such that p, p+1, ... are free now. Raises RuntimeError when no pair is found."""
    for _ in range(TRIES):
        first = random.SystemRandom().randrange(LOWEST, HIGHEST, 2)
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    sockets.enter_context(listener(port)).listen()
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} free adjacent ports between {LOWEST} and {HIGHEST}")


def listener(port: int) -> socket.socket:
    """A socket that is bound to the port and does not listen yet: it keeps the port, and whoever connects is refused."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
    except OSError:
        made.close()
        raise
    return made
