# SPDX-License-Identifier: Apache-2.0
"""The engine's thread: takes what clients sent, steps the engine, hands back replies and windows.

The socket thread talks to it through two queues only, so that a heartbeat never waits for a tick.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine_server import __version__
from engine_server.tracks.engine import AnyTrack, Engine
from engine_server.tracks.lanes import lane_costs
from engine_server.tracks.loop_track import LoopTrack
from engine_server.tracks.track import Track
from engine_server.tracks.windows import AudioWindow
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet
from shared_protocol.errors import DemonError

PROGRESS_EVERY_S = 0.25
IDLE_POLL_S = 0.5
MESSAGES_AT_ONCE = 256
log = logging.getLogger("demon.engine")


@dataclass(frozen=True)
class Event:
    """Something for a client: a message, or a window that must be acknowledged."""

    track: str
    what: m.Message | AudioWindow
    ends_track: bool = False
    """The track's hello was refused: there is no such track."""


class Worker:
    """Owns the engine. `start`, `stop` and `post` may be called from any thread; all else happens on the worker's own."""

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._emit = emit
        self._inbox: queue.SimpleQueue[tuple[str, Packet] | None] = queue.SimpleQueue()
        self._progress_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.positions: dict[str, m.Pong] = {}
        """Epoch, frame expected and rhythm by track. Values are replaced whole, so any thread may read them."""

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
                for count in range(MESSAGES_AT_ONCE):
                    item = self._inbox.get(block=not (busy or count), timeout=IDLE_POLL_S)
                    if item is None:
                        return
                    self._apply(*item)
            except queue.Empty:
                pass
            if self._engine.has_work():
                self._step()

    def _apply(self, track: str, packet: Packet) -> None:
        epoch, is_hello = getattr(packet.header, "epoch", 0), isinstance(packet.header, m.Hello)
        try:
            self._handle(track, packet)
        except DemonError as error:
            self._fail(track, error, epoch, ends_track=is_hello)
        except Exception as error:
            log.exception("track %s: %s failed", track, type(packet.header).__name__)
            self._fail(track, _engine_error(error), epoch, ends_track=is_hello)
        self._note_position(track)

    def _note_position(self, track: str) -> None:
        if known := self._engine.tracks.get(track):
            self.positions[track] = m.Pong(known.newest_epoch, known.expected, *self._engine.rhythm(track))
        else:
            self.positions.pop(track, None)

    def _handle(self, track_id: str, packet: Packet) -> None:
        header, tracks = packet.header, self._engine.tracks
        if isinstance(header, m.Hello):
            self._greet(track_id, header)
            return
        if isinstance(header, m.Bye):
            self._engine.remove(track_id)
            self._progress_at.pop(track_id, None)
            return
        track = tracks.get(track_id)
        if track is None:
            raise DemonError("E_UNKNOWN_TRACK", "say hello first")
        match header:
            case m.Configure(revision, config):
                missing = track.sound.configure(config)
                self._emit(Event(track_id, m.Configured(revision)))
                self._tell_missing(track_id, missing)
            case m.Reference(digest):
                assert packet.audio is not None
                if track.sound.references.add(header, packet.audio):
                    self._emit(Event(track_id, m.Referenced(digest)))
            case m.Begin(epoch, kind, start, feed_from, deliver_from, offline):
                track.begin(
                    epoch, kind=kind, start=start, feed_from=feed_from, deliver_from=deliver_from, offline=offline
                )
            case m.Feed(epoch, frame):
                assert packet.audio is not None
                assert packet.lanes is not None
                track.feed(epoch, frame, packet.audio, packet.lanes)
            case m.End(epoch, frame):
                track.finish(epoch, frame)
            case m.Edit(epoch, revision):
                assert packet.edits is not None
                track.edit(epoch, packet.edits)
                self._emit(Event(track_id, m.Edited(epoch, revision)))
            case m.Ping(epoch, wanted):
                track.skip(epoch, wanted)
            case m.Drop(epoch):
                self._engine.drop(track_id, epoch)
            case _:
                raise DemonError("E_UNKNOWN_MESSAGE", f"a server does not take {type(header).__name__.lower()}")

    def _greet(self, track_id: str, hello: m.Hello) -> None:
        checkpoint = self._engine.checkpoint
        kind = LoopTrack if hello.mode == "loop" else Track
        track: AnyTrack = kind(
            track_id,
            checkpoint,
            rate=hello.rate,
            latency=hello.latency,
            lanes=hello.lanes,
            config=hello.config,
            loras=self._engine.loras,
        )
        names = self._engine.loras.names()
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
                    lanes=list(track.acted_lanes),
                    costs=lane_costs(track.acted_lanes, live=hello.mode == "loop", backend=self._engine.backend),
                    minimum_latency=track.geometry.minimum_latency,
                    retain=track.geometry.retain,
                    steps=checkpoint.settings.steps,
                    depth=self._engine.depth,
                    clip_limit=track.clip_limit,
                    loras=list(names),
                    lora_names=list(names.values()),
                ),
            )
        )
        self._tell_missing(track_id, track.sound.missing())

    def _tell_missing(self, track_id: str, errors: Sequence[DemonError]) -> None:
        for error in errors:
            self._fail(track_id, error, 0)

    def _step(self) -> None:
        result = self._engine.step()
        for window in result.windows:
            self._emit(Event(window.track, window))
        for hop, reason in result.failures:
            log.error("track %s epoch %d hop %d: %s", hop.track, hop.epoch, hop.hop, reason)
            self._fail(hop.track, _engine_error(reason), hop.epoch)
        for track in self._engine.tracks:
            self._note_position(track)
        self._report_progress()

    def _report_progress(self) -> None:
        now = time.monotonic()
        for p in self._engine.progress():
            if now - self._progress_at.get(p.hop.track, 0.0) >= PROGRESS_EVERY_S:
                self._progress_at[p.hop.track] = now
                self._emit(Event(p.hop.track, m.Progress(p.hop.epoch, p.frame, p.step, p.steps)))

    def _fail(self, track: str, error: DemonError, epoch: int, *, ends_track: bool = False) -> None:
        text = error.message.encode()[:1024].decode(errors="ignore")
        self._emit(Event(track, m.Error(error.code, text, epoch), ends_track))


def _engine_error(error: Exception) -> DemonError:
    return DemonError("E_ENGINE", f"{type(error).__name__}: {error}")
