# SPDX-License-Identifier: Apache-2.0
"""The engine's thread: takes what clients sent, steps the engine, hands back replies and windows.

The socket thread talks to it through an inbox and a queue of events only, so that a heartbeat never waits for a tick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.serve.inbox import Inbox
from engine_server.serve.memory import give_back
from engine_server.serve.report import SERVER
from engine_server.tracks.any_track import AnyTrack
from engine_server.tracks.engine import Engine
from engine_server.tracks.lanes import lane_costs
from engine_server.tracks.loop_track import LoopTrack
from engine_server.tracks.stats import TrackStats
from engine_server.tracks.track import Track
from engine_server.tracks.windows import AudioWindow
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet
from shared_protocol.errors import DemonError

INPUT_CREDIT = 250
"""Frames that a client may feed beyond what was taken: ten seconds, 3.8 MB at 48 kHz. Taken is what the engine's thread has seen,
so a credit must last for a tick of the slowest engine at the pace of the fastest bounce."""
PROGRESS_EVERY_S = 0.25
PUBLISH_EVERY_S = 0.25
IDLE_POLL_S = 0.5
GIVE_BACK_AFTER_S, GIVE_BACK_EVERY_S = 1.0, 30.0
"""Free memory goes back to the system after so long a rest of work, and that often whatever happens: floods leave some, too."""
SHORTEST_PASS_S = 0.02
"""Messages are taken for as long as the last step took, or for this, if that is longer: then the engine steps."""
MAX_HELD_BYTES_OF_TRACK, MAX_HELD_BYTES = 2**30, 4 * 2**30
"""Input that the engine has taken and still needs as audio, of a track and of all: the longest clip at 192 kHz has 880 MiB."""
NO_POSITION = m.Pong(0, [], [], 0.0, 0.0)
log = logging.getLogger("demon.engine")


@dataclass(frozen=True)
class Event:
    """Something for a client: a message, or a window that must be acknowledged. Or for all of them, with no track."""

    track: str
    what: m.Message | AudioWindow | Reloaded | Failed
    ends_track: bool = False
    """The track's hello was refused: there is no such track."""


@dataclass(frozen=True)
class Seat:
    """What the socket thread has settled with a client that says hello: its answer will say so."""

    ticket: str
    packing: m.Packing


@dataclass(frozen=True)
class Item:
    """A checked message of a track; with a seat if it is a hello."""

    track: str
    packet: Packet
    came_at: float
    """By `time.monotonic`, which is the engine's clock too."""
    seat: Seat | None = None


@dataclass(frozen=True)
class Reload:
    """An engine is to take the place of the present one."""

    load: Callable[[], Engine]


@dataclass(frozen=True)
class Reloaded:
    """It has; no track is known any more."""

    engine: Engine


@dataclass(frozen=True)
class Failed:
    """The engine's thread has ended by a fault of ours: nothing is computed any more."""

    reason: DemonError


@dataclass(frozen=True)
class Vitals:
    """How the engine was a moment ago. cpu_s: of its thread; for step_s, see `Engine.step_s`."""

    depth: int = 0
    cpu_s: float = 0.0
    step_s: float = 0.0
    ticks_per_s: float = 0.0
    total: TrackStats = field(default_factory=TrackStats)
    tracks: Mapping[str, TrackStats] = field(default_factory=dict)


class Worker:
    """Owns the engine. `start` and `stop` may be called from any thread; `_` methods run on the worker's own."""

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self.inbox: Inbox[Item | Reload] = Inbox()
        self._engine = engine
        self._emit = emit
        self._progress_at: dict[str, float] = {}
        self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.positions: dict[str, m.Pong] = {}
        """What a ping of a track is answered with, but for its number. Values are replaced whole, so any thread may read them."""
        self.vitals = Vitals(engine.depth)
        """Replaced whole, every quarter of a second while there is work; any thread may read it."""
        self._published_at = 0.0
        self._worked_at = time.monotonic()
        """When the last step ended, or loading did."""
        self._gave_back_at = 0.0
        self.loading_since: float | None = None
        """When another engine began to be loaded, while it is; any thread may read it."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the tick in progress and end. Blocks until the thread has ended."""
        self.inbox.close()
        if self._thread.is_alive():
            self._thread.join()

    def reload(self, load: Callable[[], Engine]) -> None:
        """Let `load` make another engine between two steps, on the engine's thread: computing beside a tick may change its bits.

        Heartbeats are answered meanwhile. If it fails, the present engine goes on. Any thread.
        """
        self.inbox.put(b"", Reload(load), is_urgent=True)

    def _run(self) -> None:
        try:
            while not self.inbox.is_closed:
                self._take_messages()
                if self._engine.has_work():
                    self._step()
                self._give_back()
                self._publish()
        except Exception as error:  # what concerns a track was caught before
            log.exception("the engine has failed")
            self._emit(Event("", Failed(_engine_error(error))))

    def _take_messages(self) -> None:
        """Apply what has come, one message of each client in turn, for no longer than a step takes; then tell what was fed."""
        fed: set[str] = set()
        item = self.inbox.take(0.0 if self._engine.has_work() else IDLE_POLL_S)
        until = time.monotonic() + max(self._step_s, SHORTEST_PASS_S)
        while item is not None:
            if isinstance(item, Reload):
                self._reload(item)
            else:
                self._apply(item)
                if isinstance(item.packet.header, m.Feed):
                    fed.add(item.track)
            item = self.inbox.take(0.0) if time.monotonic() < until else None
        for track in fed & self.positions.keys():
            self._emit(Event(track, self.positions[track]))

    def _give_back(self) -> None:
        """Give back what was freed: by work, after a moment without any, and by whatever else, now and then."""
        now = time.monotonic()
        has_rested = self._worked_at > self._gave_back_at and now - self._worked_at > GIVE_BACK_AFTER_S
        if has_rested or now - self._gave_back_at > GIVE_BACK_EVERY_S:
            self._gave_back_at = now
            give_back()

    def _publish(self) -> None:
        now, engine = time.monotonic(), self._engine
        if now - self._published_at < PUBLISH_EVERY_S:
            return
        self._published_at = now
        ticks_per_s, _ = engine.rhythm("")
        tracks = engine.stats()
        total = sum(tracks.values(), engine.left)
        self.vitals = Vitals(engine.depth, time.thread_time(), engine.step_s, ticks_per_s, total, tracks)

    def _reload(self, item: Reload) -> None:
        self.loading_since = time.monotonic()
        try:
            engine = item.load()
        except Exception as error:  # whatever is wrong with the new one, the old one serves
            log.error("the engine was not loaded anew: %s", error)
            return
        finally:
            self.loading_since = None
        engine.left = sum(self._engine.stats().values(), self._engine.left)
        self._engine = engine
        self.positions.clear()
        self._progress_at.clear()
        self._emit(Event("", Reloaded(engine)))

    def _apply(self, item: Item) -> None:
        header = item.packet.header
        epoch, is_hello = getattr(header, "epoch", 0), isinstance(header, m.Hello)
        try:
            self._handle(item)
        except DemonError as error:
            self._fail(item.track, error, epoch, ends_track=is_hello)
        except Exception as error:
            log.exception("track %s: %s failed", item.track, type(header).__name__)
            self._fail(item.track, _engine_error(error), epoch, ends_track=is_hello)
        self._note_position(item.track)

    def _note_position(self, track: str) -> None:
        if known := self._engine.tracks.get(track):
            positions = known.book.positions
            self.positions[track] = m.Pong(0, list(positions), list(positions.values()), *self._engine.rhythm(track))
        else:
            self.positions.pop(track, None)

    def _handle(self, item: Item) -> None:
        track_id, packet, header, tracks = item.track, item.packet, item.packet.header, self._engine.tracks
        if isinstance(header, m.Hello):
            assert item.seat is not None
            self._greet(track_id, header, item.seat)
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
                self._check_held(track, packet.audio.nbytes)
                track.feed(epoch, frame, packet.audio, packet.lanes, came_at=item.came_at)
            case m.End(epoch, frame):
                track.finish(epoch, frame)
            case m.Edit(epoch, revision):
                assert packet.edits is not None
                track.edit(epoch, packet.edits)
                self._emit(Event(track_id, m.Edited(epoch, revision)))
            case m.Ping(_, epoch, wanted):
                track.skip(epoch, wanted)
            case m.Drop(epoch):
                self._engine.drop(track_id, epoch)
            case _:
                raise DemonError("E_UNKNOWN_MESSAGE", f"a server does not take {type(header).__name__.lower()}")

    def _check_held(self, track: AnyTrack, size: int) -> None:
        """Raise DemonError `E_LIMIT` for input that has no room: it comes again when some was encoded."""
        total = sum(other.held_bytes for other in self._engine.tracks.values())
        if track.held_bytes + size > MAX_HELD_BYTES_OF_TRACK or total + size > MAX_HELD_BYTES:
            raise DemonError(
                "E_LIMIT", f"{track.held_bytes} bytes of this track and {total} of all are not encoded yet"
            )

    def _greet(self, track_id: str, hello: m.Hello, seat: Seat) -> None:
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
                    ticket=seat.ticket,
                    credit=INPUT_CREDIT,
                    packing=seat.packing,
                    server=SERVER,
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
        began = time.monotonic()
        result = self._engine.step()
        for window in result.windows:
            self._emit(Event(window.track, window))
        for hop, reason in result.failures:
            log.error("track %s epoch %d hop %d: %s", hop.track, hop.epoch, hop.hop, reason)
            self._fail(hop.track, _engine_error(reason), hop.epoch)
        for track in self._engine.tracks:
            self._note_position(track)
        self._report_progress()
        self._worked_at = time.monotonic()
        self._step_s = self._worked_at - began

    def _report_progress(self) -> None:
        now = time.monotonic()
        if all(now - self._progress_at.get(track, 0.0) < PROGRESS_EVERY_S for track in self._engine.tracks):
            return
        for p in self._engine.progress():
            if now - self._progress_at.get(p.hop.track, 0.0) >= PROGRESS_EVERY_S:
                self._progress_at[p.hop.track] = now
                self._emit(Event(p.hop.track, m.Progress(p.hop.epoch, p.frame, p.step, p.steps)))

    def _fail(self, track: str, error: DemonError, epoch: int, *, ends_track: bool = False) -> None:
        text = error.message.encode()[:1024].decode(errors="ignore")
        self._emit(Event(track, m.Error(error.code, text, epoch), ends_track))


def _engine_error(error: Exception) -> DemonError:
    return DemonError("E_ENGINE", str(error) if isinstance(error, DemonError) else f"{type(error).__name__}: {error}")
