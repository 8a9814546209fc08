# SPDX-License-Identifier: Apache-2.0
"""`demon cluster start`: a gateway in this process, and engines on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable

from engine_server.cluster.crew import Crew
from engine_server.cluster.engine_actor import EngineSettings
from engine_server.cluster.plan import Need, Node
from engine_server.cluster.ray_access import LogLines, join
from engine_server.cluster.ray_desk import OpenDesk
from engine_server.cluster.ray_engines import RayEngines
from engine_server.cluster.ray_fleet import RayFleet
from engine_server.serve.endpoint import LOOPBACK
from engine_server.serve.gateway import Gateway
from engine_server.serve.keys import AllowedClient, KeyStore
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.cluster")


def serve_cluster(address: str, endpoint: str, engines: int, need: Need, settings: EngineSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises DemonError `E_RAY`, `E_CLUSTER`, `E_BIND`, `E_KEYS`, `E_ENGINE`."""
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
            here = cluster.own_address
            crew = Crew(
                cluster,
                need,
                engines,
                unfit=lambda node: unreachable(node, here, has_keys=settings.has_keys),
                clients=AllowedClients(KeyStore()) if settings.has_keys else lambda: None,
            )
            fleet = RayFleet(crew, desk, gateway.endpoint)
            failure = _run(
                gateway, fleet, lambda: print(f"serving {gateway.endpoint} {engines} engines", file=out, flush=True)
            )
            desk.close()
        finally:
            ray.shutdown()
    if failure:
        raise DemonError("E_ENGINE", f"no engine has come up: {failure}")


def unreachable(node: Node, own_address: str, *, has_keys: bool) -> str:
    """Why tracks could not get to an engine at a node, empty if they can. has_keys: they may come from other machines."""
    is_loopback = LOOPBACK.fullmatch(f"tcp://{node.address}:*") is not None
    if has_keys and is_loopback:
        return f"nobody else reaches {node.address}; start Ray there with --node-ip-address"
    if not has_keys and node.address != own_address:
        return "engines on another machine need keys; start the gateway with --endpoint tcp://0.0.0.0:47800"
    return ""


class AllowedClients:
    """Who may connect, from this machine's key files. Called on the fleet's thread. Raises DemonError `E_KEYS` when made."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._found = store.clients()
        self._seen = self._complained_of = store.clients_stamp()

    def __call__(self) -> tuple[AllowedClient, ...]:
        """As at the last time that the list could be read: one wrong `chmod` must not end everybody's music."""
        stamp = self._store.clients_stamp()
        if stamp != self._seen:
            try:
                self._found, self._seen = self._store.clients(), stamp
            except DemonError as error:  # and is read again the next time
                if stamp != self._complained_of:
                    log.error("the engines keep the list of clients that they have: %s", error)
                self._complained_of = stamp
        return self._found


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
