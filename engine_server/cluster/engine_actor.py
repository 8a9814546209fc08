# SPDX-License-Identifier: Apache-2.0
"""An engine on a node of the cluster: an actor that serves tracks on a thread of its own and tells the gateway how it is.

Each node runs the code that is installed there; nothing heavy is imported before the actor is there, so that it answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine_server.cluster.report import Identity, Report
from engine_server.device_name import AUTO
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.serve.keys import AllowedClient
    from engine_server.serve.server import Server
    from engine_server.tracks.engine import Engine

END_TIMEOUT_S = 10.0
PAIRS_TRIED = 64
LAST_PORT = 65_534
log = logging.getLogger("demon.cluster")


@dataclass(frozen=True)
class EngineSettings:
    """What all engines of a cluster have in common. model, device, backend, loras: as `demon serve` has them, on each node.

    threads: to compute with, the same for all, as bits may depend on it. first_port: where the search for two free ports begins;
    0 takes any. gateway_key: the gateway's public key, empty on loopback, where nobody needs one.
    """

    model: str
    depth: int
    loras: tuple[str, ...]
    threads: int
    first_port: int
    gateway_key: str
    device: str = AUTO
    backend: str = "auto"
    log_level: int = logging.WARNING
    log_format: str = "text"


class EngineActor:
    """host: the address to listen on. Ray calls the methods one after another, on the process's main thread."""

    def __init__(self, settings: EngineSettings, host: str) -> None:
        from engine_server.cluster.node_keys import NodeKeys

        self._settings, self._host = settings, host
        self._keys = NodeKeys(settings.gateway_key) if settings.gateway_key else None
        self._has_clients = threading.Event()
        """The gateway has said who is allowed. Not before that does an engine with keys listen."""
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._report = Report("loading", os.getpid(), devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def report(self, clients: Sequence[AllowedClient] | None) -> Report:
        """How the engine is. clients: who is allowed from now on; None changes nothing."""
        if self._keys and clients is not None:
            self._keys.pass_on(clients)
            self._has_clients.set()
        with self._lock:
            return self._report

    def leave(self) -> None:
        """Tell all tracks that the engine closes, and end it; returns when nothing listens any more, or after END_TIMEOUT_S."""
        self._leaving.set()
        self._has_clients.set()
        if server := self._server:
            server.stop()
        self._thread.join(END_TIMEOUT_S)

    def _run(self) -> None:
        from engine_server.serve.handles import raise_handle_limit
        from engine_server.serve.logs import configure_logging

        configure_logging(self._settings.log_level, self._settings.log_format)
        try:
            raise_handle_limit()
            engine = self._load()
            if self._keys:
                self._has_clients.wait()
            self._serve(engine)
            self._note(state="ended")
        except DemonError as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("the engine ends")
            self._fail(f"E_ENGINE: {type(error).__name__}: {error}")

    def _load(self) -> Engine:
        import torch

        from engine_server.cli import load_engine
        from engine_server.serve.serve_engine import SWITCH_S
        from engine_server.serve.warm_up import warm_up

        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(self._settings.threads)
        settings = self._settings
        engine = load_engine(
            settings.model,
            settings.depth,
            [Path(folder) for folder in settings.loras],
            device=settings.device,
            backend=settings.backend,
        )
        warm_up(engine)
        return engine

    def _serve(self, engine: Engine) -> None:
        server = self._listen(engine)
        self._note(
            endpoint=server.endpoint,
            key=self._keys.server().public if self._keys else "",
            identity=identify(engine),
        )
        self._server = server
        if self._leaving.is_set():  # leave may have come before there was a server
            server.stop()
        server.run()

    def _listen(self, engine: Engine) -> Server:
        """A server at the first free pair of ports. Raises DemonError `E_BIND`, `E_KEYS`."""
        from engine_server.serve.security import check_bind
        from engine_server.serve.server import Server

        host = self._host
        if self._keys:
            check_bind(f"tcp://{host}:*", self._keys)
        first = self._settings.first_port
        ports = range(first, min(first + 2 * PAIRS_TRIED, LAST_PORT), 2) if first else ["*"]
        for port in ports:
            try:
                return Server(engine, f"tcp://{host}:{port}", store=self._keys, on_tracks=self._note_tracks)
            except DemonError as error:
                if error.code != "E_BIND":
                    raise
                refused = error
        raise DemonError("E_BIND", f"{host} has no two free ports from {first} on: {refused.message}")

    def _note_tracks(self, tracks: int, capacity: int) -> None:
        state = "serving" if self._report.state == "loading" else self._report.state
        self._note(state=state, tracks=tracks, capacity=capacity)

    def _fail(self, reason: str) -> None:
        self._note(state="failed", reason=reason)

    def _note(self, **changes: object) -> None:
        with self._lock:
            self._report = replace(self._report, **changes)  # type: ignore[arg-type]


def identify(engine: Engine) -> Identity:
    """What decides this engine's bits."""
    import torch

    from engine_server import __version__
    from engine_server.tracks.receipt import library_versions, processor_name

    checkpoint = engine.checkpoint
    return Identity(
        checkpoint=checkpoint.name,
        checkpoint_hash=checkpoint.content_hash,
        backend=engine.backend,
        demon=__version__,
        libraries=library_versions(),
        threads=torch.get_num_threads(),
        processor=processor_name(),
    )
