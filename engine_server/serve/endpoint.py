# SPDX-License-Identifier: Apache-2.0
"""Addresses of servers: pairs of ports."""

from __future__ import annotations

import re

from shared_protocol.errors import DemonError

LOOPBACK = re.compile(r"tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):(\d+|\*)")
ADDRESS = re.compile(r"(tcp://[^\s/]+):(\d+)")
LAST_PORT = 65535


def audio_endpoint(endpoint: str) -> str:
    """The address of an endpoint's audio socket: the next port. Raises DemonError `E_BIND` where there is none."""
    match = ADDRESS.fullmatch(endpoint)
    if match is None or not 0 < int(match[2]) < LAST_PORT:
        raise DemonError("E_BIND", f"{endpoint} has no port between 1 and {LAST_PORT - 1}; the next one is for audio")
    return f"{match[1]}:{int(match[2]) + 1}"


def is_any_port(endpoint: str) -> bool:
    """Whether an endpoint leaves its port to the system."""
    return endpoint.endswith((":*", ":0"))


def engine_endpoint(endpoint: str, number: int) -> str:
    """Where engine `number` (from 0) behind a gateway listens: the pairs of ports after the gateway's own, or any."""
    if is_any_port(endpoint):
        return endpoint
    match = ADDRESS.fullmatch(audio_endpoint(endpoint))
    assert match is not None
    return f"{match[1]}:{int(match[2]) + 1 + 2 * number}"
