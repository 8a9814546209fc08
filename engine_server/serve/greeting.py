# SPDX-License-Identifier: Apache-2.0
"""What listens on a port, without becoming its client."""

from __future__ import annotations

import contextlib
import socket

ANSWER_S = 2.0
GREETING_BYTES = 64
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"
"""The beginning of one, of ZMTP 3.0: enough to be told the other's mechanism. The rest never comes, so no client arrives."""


def ask_greeting(host: str, port: int) -> str | None:
    """The security mechanism (`NULL`, `CURVE`) that a ZMTP greeting names; empty for another protocol, None for no listener."""
    try:
        with socket.create_connection((host, port), ANSWER_S) as one:
            one.settimeout(ANSWER_S)
            one.sendall(GREETING)
            greeting = b""
            with contextlib.suppress(OSError):
                while len(greeting) < GREETING_BYTES and (more := one.recv(GREETING_BYTES - len(greeting))):
                    greeting += more
    except OSError:
        return None
    is_zmtp = len(greeting) == GREETING_BYTES and greeting[0] == 0xFF and greeting[9] == 0x7F
    return greeting[12:32].rstrip(b"\0").decode("ascii", "replace") if is_zmtp else ""
