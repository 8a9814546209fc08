# SPDX-License-Identifier: Apache-2.0
"""Addresses of servers: where they listen, and pairs of ports."""

from __future__ import annotations

import re
from typing import NamedTuple

from shared_protocol.errors import DemonError

LAST_PORT = 65_535
EVERYWHERE = ("*", "0.0.0.0", "[::]")
"""Hosts that a server listens at, and no client connects to."""
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|\[::1\]")
_ENDPOINT = re.compile(r"tcp://(?P<host>\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]):(?P<port>\d{1,5}|\*)")


class Address(NamedTuple):
    """An endpoint's parts. host: a name or number, IPv6 in brackets, or `*`; port: 0 for any."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine reaches it."""
        return _LOOPBACK.fullmatch(self.host) is not None

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port or '*'}"


def parse_endpoint(endpoint: str) -> Address | None:
    """The parts of `tcp://HOST:PORT`; None for what is none."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None:
        return None
    port = 0 if found["port"] == "*" else int(found["port"])
    return Address(found["host"], port) if port <= LAST_PORT else None


def audio_endpoint(endpoint: str) -> str:
    """The address of an endpoint's audio socket: the next port. Raises DemonError `E_BIND` where there is none."""
    address = parse_endpoint(endpoint)
    if address is None or not 0 < address.port < LAST_PORT:
        raise DemonError("E_BIND", f"{endpoint} has no port between 1 and {LAST_PORT - 1}; the next one is for audio")
    return str(Address(address.host, address.port + 1))


def is_any_port(endpoint: str) -> bool:
    """Whether an endpoint leaves its port to the system."""
    address = parse_endpoint(endpoint)
    return address is not None and address.port == 0


def engine_endpoint(endpoint: str, number: int) -> str:
    """Where engine `number` (from 0) behind a gateway listens: the pairs of ports after the gateway's own, or any."""
    if is_any_port(endpoint):
        return endpoint
    for _ in range(2 * number + 2):
        endpoint = audio_endpoint(endpoint)
    return endpoint


def client_endpoint(endpoint: str) -> str:
    """Where a client on this machine reaches a server that listens at an endpoint."""
    address = parse_endpoint(endpoint)
    if address is None or address.host not in EVERYWHERE:
        return endpoint
    return str(Address("[::1]" if address.host == "[::]" else "127.0.0.1", address.port))
