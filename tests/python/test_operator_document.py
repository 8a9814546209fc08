# SPDX-License-Identifier: Apache-2.0
"""`docs/operator.md` says what the code does, where it says a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_server.serve import server, worker
from engine_server.serve.clients import MAX_TRACKS
from engine_server.serve.door import MOST_CONNECTIONS
from engine_server.serve.limits import MIB, Limits
from engine_server.serve.security import HANDSHAKE_MS

DOCUMENT = Path(__file__).parents[2] / "docs" / "operator.md"
LIMITS = Limits()
GIB = 2**30


def row(what):
    """The cells after the first of the one row of a table that begins so."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {what} |")]
    assert len(rows) == 1
    return rows[0].split("|", 2)[2]


@pytest.mark.parametrize(("what", "said"), [
    ("tracks", [f" {MAX_TRACKS} |"]),
    ("traffic of a track", [
        f"{LIMITS.messages_per_s:.0f} messages and {LIMITS.bytes_per_s / MIB:.0f} MiB per second",
        f"bursts of {LIMITS.messages_burst:.0f} and {LIMITS.bytes_burst / GIB:.0f} GiB",
        f"after {LIMITS.patience} of them",
    ]),
    ("traffic without a track", [
        f"{LIMITS.messages_per_s:.0f} messages per second, after a burst of {LIMITS.unknown}",
        f"after {LIMITS.unknown} of them",
    ]),
    ("messages that wait for the engine", [
        f"{LIMITS.held_bytes / MIB:.0f} MiB per track, {server.MAX_HELD_BYTES / GIB:.0f} GiB of all",
    ]),
    ("audio that the engine has not encoded yet", [
        f"{worker.MAX_HELD_BYTES_OF_TRACK / GIB:.0f} GiB per track, {worker.MAX_HELD_BYTES / GIB:.0f} GiB of all",
    ]),
    ("connections", [f"{MOST_CONNECTIONS} per port"]),
    ("time to show a key", [f"{HANDSHAKE_MS / 1000:.0f} s"]),
])  # fmt: skip
def test_limits_are_those_of_the_code(what, said):
    for part in said:
        assert part in row(what)
