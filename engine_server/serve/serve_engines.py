# SPDX-License-Identifier: Apache-2.0
"""`demon serve --engines N`: a gateway in this process, and the engines in processes of their own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence

from engine_server.serve.fleet import LocalFleet
from engine_server.serve.gateway import Gateway
from shared_protocol.errors import DemonError


def serve_engines(
    endpoint: str,
    count: int,
    options: Sequence[str],
    *,
    gpus: Sequence[str] = (),
    on_serving: Callable[[str], None] = lambda where: None,
) -> None:
    """Serve until SIGINT or SIGTERM. options: those of `demon serve`, for each engine; on_serving hears where, on some thread.

    gpus: see `LocalFleet`. Raises DemonError `E_BIND`, `E_ENGINE`.
    """
    # Before anything is loaded: a port that is taken is told at once, and an early hello waits.
    gateway = Gateway(endpoint)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: gateway.stop())
    fleet = LocalFleet(count, endpoint, options, gpus)
    signal.signal(signal.SIGHUP, lambda *_: fleet.reload())
    failed = threading.Event()

    def announce() -> None:
        if fleet.wait():
            print(f"serving {gateway.endpoint} {count} engines", flush=True)
            on_serving(gateway.endpoint)
        else:
            failed.set()
            gateway.stop()

    threading.Thread(target=announce, name="announce", daemon=True).start()
    try:
        gateway.run(fleet)
    finally:
        fleet.close()
    if failed.is_set():
        raise DemonError("E_ENGINE", "no engine has come up; what it said is above")
