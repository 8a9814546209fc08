# SPDX-License-Identifier: Apache-2.0
"""The engine's thread: takes what clients sent, steps the engine, hands back replies and windows.

The socket thread talks to it through two queues only, so that a heartbeat never waits for a tick.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine_server import __version__
from engine_server.tracks.engine import Engine
from engine_server.tracks.track import ACTED_LANES, AudioWindow, Track
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet
from shared_protocol.errors import DemonError

PROGRESS_EVERY_S = 0.25
IDLE_POLL_S = 0.5
log = logging.getLogger("demon.engine")


@dataclass(frozen=True)
class Event:
    """Something for a client: a message, or a window that must be acknowledged."""

    track: str
    what: m.Message | AudioWindow


class Worker:
    """Owns the engine. `post` and `forget` may be called from any thread; everything else happens on the worker's own."""

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._emit = emit
        self._inbox: queue.SimpleQueue[tuple[str, Packet] | None] = queue.SimpleQueue()
        self._progress_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.positions: dict[str, m.Pong] = {}
        """The newest epoch and the frame expected there, by track; values are replaced whole, so any thread may read them."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the tick in progress and end. Blocks until the thread has ended."""
        self._inbox.put(None)
        self._thread.join()

    def post(self, track: str, packet: Packet) -> None:
        """Hand over a checked message."""
        self._inbox.put((track, packet))

    def _run(self) -> None:
        while True:
            busy = self._engine.has_work()
            try:
                item = self._inbox.get(block=not busy, timeout=IDLE_POLL_S)
                while item is not None:
                    self._apply(*item)
                    item = self._inbox.get_nowait()
                return
            except queue.Empty:
                pass
            if self._engine.has_work():
                self._step()

    def _apply(self, track: str, packet: Packet) -> None:
        epoch = getattr(packet.header, "epoch", 0)
        try:
            self._handle(track, packet)
        except DemonError as error:
            self._fail(track, error, epoch)
        except Exception as error:
            log.exception("track %s: %s failed", track, type(packet.header).__name__)
            self._fail(track, DemonError("E_ENGINE", f"{type(error).__name__}: {error}"), epoch)
        if known := self._engine.tracks.get(track):
            self.positions[track] = m.Pong(known.newest_epoch, known.expected)
        else:
            self.positions.pop(track, None)

    def _handle(self, track_id: str, packet: Packet) -> None:
        header, tracks = packet.header, self._engine.tracks
        if isinstance(header, m.Hello):
            self._engine.remove(track_id)
            self._greet(track_id, header)
            return
        if isinstance(header, m.Bye):
            self._engine.remove(track_id)
            return
        track = tracks.get(track_id)
        if track is None:
            raise DemonError("E_UNKNOWN_TRACK", "say hello first")
        match header:
            case m.Configure(revision, config):
                track.config = config
                self._emit(Event(track_id, m.Configured(revision)))
            case m.Begin(epoch, start, feed_from, deliver_from, offline):
                track.begin(epoch, start=start, feed_from=feed_from, deliver_from=deliver_from, offline=offline)
            case m.Feed(epoch, frame):
                assert packet.audio is not None
                assert packet.lanes is not None
                track.feed(epoch, frame, packet.audio, packet.lanes)
            case m.End(epoch, frame):
                track.finish(epoch, frame)
            case m.Drop(epoch):
                self._engine.drop(track_id, epoch)
            case _:
                raise DemonError("E_UNKNOWN_MESSAGE", f"a server does not take {type(header).__name__.lower()}")

    def _greet(self, track_id: str, hello: m.Hello) -> None:
        checkpoint = self._engine.checkpoint
        track = Track(
            track_id,
            checkpoint,
            rate=hello.rate,
            latency=hello.latency,
            lanes=hello.lanes,
            config=hello.config,
        )
        self._engine.tracks[track_id] = track
        self._emit(
            Event(
                track_id,
                m.Welcome(
                    protocol=PROTOCOL_VERSION,
                    server=f"demon-bridge {__version__}",
                    checkpoint=checkpoint.name,
                    checkpoint_hash=checkpoint.content_hash,
                    backend=self._engine.backend,
                    lanes=list(ACTED_LANES),
                    minimum_latency=track.geometry.minimum_latency,
                    retain=track.geometry.retain,
                ),
            )
        )

    def _step(self) -> None:
        in_flight = self._engine.progress()
        try:
            result = self._engine.step()
        except Exception as error:
            log.exception("the engine failed")
            for epoch_of in {(p.hop.track, p.hop.epoch) for p in in_flight}:
                self._engine.drop(*epoch_of)
                self._fail(epoch_of[0], DemonError("E_ENGINE", f"{type(error).__name__}: {error}"), epoch_of[1])
            return
        for window in result.windows:
            self._emit(Event(window.track, window))
        for hop, reason in result.failures:
            log.error("track %s epoch %d hop %d: %s", hop.track, hop.epoch, hop.hop, reason)
            self._fail(hop.track, DemonError("E_ENGINE", f"{type(reason).__name__}: {reason}"), hop.epoch)
        self._report_progress()

    def _report_progress(self) -> None:
        now = time.monotonic()
        for p in self._engine.progress():
            if now - self._progress_at.get(p.hop.track, 0.0) >= PROGRESS_EVERY_S:
                self._progress_at[p.hop.track] = now
                frame = p.hop.hop * self._engine.tracks[p.hop.track].geometry.hop
                self._emit(Event(p.hop.track, m.Progress(p.hop.epoch, frame, p.step, p.steps)))

    def _fail(self, track: str, error: DemonError, epoch: int) -> None:
        self._emit(Event(track, m.Error(error.code, error.message.encode()[:1024].decode(errors="ignore"), epoch)))
