# SPDX-License-Identifier: Apache-2.0
"""`demon cluster start`: a gateway in this process, and engines on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable

from engine_server.cluster.allowed_clients import AllowedClients
from engine_server.cluster.crew import Crew
from engine_server.cluster.engine_actor import EngineSettings
from engine_server.cluster.plan import Need, unreachable
from engine_server.cluster.ray_access import LogLines, join
from engine_server.cluster.ray_desk import OpenDesk
from engine_server.cluster.ray_engines import RayEngines
from engine_server.cluster.ray_fleet import RayFleet
from engine_server.serve.gateway import Gateway
from engine_server.serve.keys import KeyStore
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.cluster")


def serve_cluster(
    address: str,
    endpoint: str,
    engines: int,
    need: Need,
    settings: EngineSettings,
    *,
    on_serving: Callable[[str], None] = lambda where: None,
) -> None:
    """Serve until SIGINT or SIGTERM. address: of the Ray cluster; endpoint: of the gateway; on_serving hears it, on some thread.

    Raises DemonError `E_RAY`, `E_CLUSTER`, `E_BIND`, `E_KEYS`, `E_ENGINE`.
    """
    out = sys.stdout
    with contextlib.redirect_stdout(LogLines()):
        ray = join(address)
        try:
            desk = OpenDesk(ray)
            gateway = Gateway(endpoint)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: gateway.stop())
            signal.signal(
                signal.SIGHUP, lambda *_: log.warning("a cluster's engines load nothing anew: end and start it")
            )
            cluster = RayEngines(settings, need)
            here, has_keys = cluster.own_address, bool(settings.gateway_key)
            crew = Crew(
                cluster,
                need,
                engines,
                unfit=lambda node: unreachable(node, here, has_keys=has_keys),
                clients=AllowedClients(KeyStore()) if has_keys else lambda: None,
            )
            fleet = RayFleet(crew, desk, gateway.endpoint)

            def announce() -> None:
                print(f"serving {gateway.endpoint} {engines} engines", file=out, flush=True)
                on_serving(gateway.endpoint)

            failure = _run(gateway, fleet, announce)
            desk.close()
        finally:
            ray.shutdown()
    if failure:
        raise DemonError("E_ENGINE", f"no engine has come up: {failure}")


def _run(gateway: Gateway, fleet: RayFleet, announce: Callable[[], None]) -> str:
    """Serve until the gateway is stopped; why no engine could, if that is why."""
    failures: list[str] = []

    def watch() -> None:
        if reason := fleet.wait():
            failures.append(reason)
            gateway.stop()
        elif fleet.places():
            announce()

    threading.Thread(target=watch, name="announce", daemon=True).start()
    try:
        gateway.run(fleet)
    finally:
        fleet.close()
    return "".join(failures)
