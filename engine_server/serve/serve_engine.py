# SPDX-License-Identifier: Apache-2.0
"""`demon serve`: one engine in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from engine_server.serve.server import Server
from engine_server.tracks.engine import Engine

SWITCH_S = 0.0005
"""The engine's thread lets the link's in after so long, where Python would let it wait ten times as long."""


def serve_engine(
    endpoint: str, load: Callable[[], Engine], *, on_serving: Callable[[str], None], reports_tracks: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP loads the engine anew. The main thread only.

    on_serving hears where. reports_tracks: print how many tracks there are whenever that changes and every second, for the
    gateway that has started this process. Raises DemonError `E_BIND`, `E_KEYS`, `E_ENGINE`, and what `load` raises.
    """
    sys.setswitchinterval(SWITCH_S)
    server = Server(load(), endpoint, on_tracks=_print_tracks if reports_tracks else None)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    signal.signal(signal.SIGHUP, lambda *_: server.reload(load))
    checkpoint = server.checkpoint
    print(f"serving {server.endpoint} {checkpoint.name} {checkpoint.content_hash} {server.backend}", flush=True)
    on_serving(server.endpoint)
    server.run()


def _print_tracks(tracks: int, most: int) -> None:
    print(f"tracks {tracks} {most}", flush=True)
