# SPDX-License-Identifier: Apache-2.0
"""Where the server may listen. Imports nothing heavy: a wrong address is named at once."""

from __future__ import annotations

import re

from shared_protocol.errors import DemonError

LOOPBACK = re.compile(r"(tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):(\d+|\*)|ipc://.+)")


def check_endpoint(endpoint: str) -> None:
    """Raise DemonError `E_BIND` for an address that other machines could reach."""
    if not LOOPBACK.fullmatch(endpoint):
        raise DemonError("E_BIND", f"{endpoint} is not a loopback address; this version serves this machine only")
