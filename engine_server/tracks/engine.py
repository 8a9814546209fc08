# SPDX-License-Identifier: Apache-2.0
"""The engine: all tracks over shared rings. One call of `step` encodes, admits, ticks and decodes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH, Completion, Ring
from engine_server.diffusion.rows import RingShape
from engine_server.model.checkpoint import Checkpoint
from engine_server.tracks.epochs import EpochBook
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.rhythm import Rhythm
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.windows import AudioWindow, HopId
from shared_protocol.codec import Floats

DEFAULT_DEPTH = DEFAULT_BATCH
"""Slots of a ring: as many as a forward has rows."""
IDLE_RINGS = 4
"""Rings that are kept for what may come; clips bring many lengths."""
URGENT_RANK = 0
MOST_HELD_BACK = 3
"""Steps in a row for which other rings may stand still for the sake of a live stream that is late."""
STEP_SMOOTHING = 0.2


class AnyTrack(Protocol):
    """What the engine asks of a track. `Track` and `LoopTrack` say more of each."""

    id: str
    sound: TrackSound
    geometry: WindowGeometry
    book: EpochBook
    clip_limit: int
    acted_lanes: tuple[str, ...]

    @property
    def slack_s(self) -> float: ...
    def begin(self, epoch: int, *, kind: str, start: int, feed_from: int, deliver_from: int, offline: bool) -> None: ...
    def feed(self, epoch: int, frame: int, audio: Floats, lanes: Floats) -> None: ...
    def finish(self, epoch: int, frame: int) -> None: ...
    def skip(self, epoch: int, wanted: int) -> None: ...
    def edit(self, epoch: int, edits: Floats) -> None: ...
    def drop(self, epoch: int) -> None: ...
    def waiting(self) -> list[HopId]: ...
    def is_due(self, hop: HopId) -> bool: ...
    def rank(self, hop: HopId) -> int: ...
    def ring_key(self, hop: HopId) -> tuple[int, int]: ...
    def frame_of(self, hop: HopId) -> int: ...
    def tick(self, depth: int) -> None: ...
    def take(self, hop: HopId) -> SlotRequest: ...
    def revisions(self) -> Iterable[tuple[HopId, Mapping[str, Any]]]: ...
    def complete(self, hop: HopId, latent: torch.Tensor) -> list[AudioWindow]: ...
    def open_epochs(self) -> list[int]: ...
    def work(self, epoch: int) -> list[AudioWindow]: ...


@dataclass(frozen=True)
class HopProgress:
    """How far a hop in flight has come. frame: where it begins on the timeline."""

    hop: HopId
    frame: int
    step: int
    steps: int


@dataclass
class StepResult:
    """What one step brought: finished windows, and the tracks that failed with the reason."""

    windows: list[AudioWindow] = field(default_factory=list)
    failures: list[tuple[HopId, Exception]] = field(default_factory=list)


class Engine:
    """Tracks share rings: one ring for each window length and condition length. One thread at a time.

    loras: folders of LoRA files that tracks may name by content.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        depth: int = DEFAULT_DEPTH,
        clock: Callable[[], float] = time.monotonic,
        loras: Sequence[Path] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.loras = LoraCatalogue(checkpoint, loras)
        self.tracks: dict[str, AnyTrack] = {}
        self.depth = depth
        self._clock = clock
        self._rings: dict[tuple[int, int], Ring] = {}
        self._deadlines: dict[HopId, float] = {}
        self._flying: dict[HopId, int] = {}
        """Everything in flight, with its rank."""
        self._ticks = Rhythm()
        self._generations: dict[str, Rhythm] = {}
        self._step_s = 0.0
        self._held_back = 0

    @property
    def backend(self) -> str:
        """What computes, in words; part of every receipt."""
        return f"{self.checkpoint.backend}, {torch.get_num_threads()} threads"

    def rhythm(self, track_id: str) -> tuple[float, float]:
        """Ticks of the engine and finished generations of a track, both per second."""
        now, generations = self._clock(), self._generations.get(track_id)
        return self._ticks.per_second(now), generations.per_second(now) if generations else 0.0

    def remove(self, track_id: str) -> None:
        """Forget a track and everything in flight for it."""
        self.tracks.pop(track_id, None)
        self._generations.pop(track_id, None)
        self._cancel(lambda hop: hop.track == track_id)

    def drop(self, track_id: str, epoch: int) -> None:
        """Forget an epoch of a track and everything in flight for it."""
        if track_id in self.tracks:
            self.tracks[track_id].drop(epoch)
        self._cancel(lambda hop: hop.track == track_id and hop.epoch == epoch)

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return any(ring.busy for ring in self._rings.values()) or any(
            track.sound.references.is_encoding() or track.open_epochs() or track.waiting()
            for track in self.tracks.values()
        )

    def progress(self) -> list[HopProgress]:
        """Every hop in flight, then every hop that waits for a slot (with no step done)."""
        slots = itertools.chain.from_iterable(ring.progress() for ring in self._rings.values())
        flying = [
            HopProgress(
                slot.request_id, self.tracks[slot.request_id.track].frame_of(slot.request_id), slot.step, slot.steps
            )
            for slot in slots
            if isinstance(slot.request_id, HopId)
        ]
        waiting = [
            HopProgress(hop, track.frame_of(hop), 0, track.sound.steps)
            for track in self.tracks.values()
            for hop in track.waiting()
        ]
        return flying + waiting

    def step(self) -> StepResult:
        """Fill free slots, earliest deadline first, tick every busy ring once, decode what has become ready.

        What cannot be prepared, computed or decoded fails alone: its epoch is dropped and reported. Other rings stand still
        while a live stream is about to be late.
        """
        result, began = StepResult(), self._clock()
        for track in list(self.tracks.values()):
            self._guard(HopId(track.id, 0, 0), result, track.sound.references.encode_some)
            track.tick(self.depth)
        self._admit(result)
        self._revise(result)
        is_urgent = self._is_urgent(began)
        has_ticked = False
        for key in list(self._rings):
            ring = self._rings[key]
            if ring.busy and not (is_urgent and not self._serves_live_streams(ring)):
                has_ticked = True
                for completion in self._tick(ring, result):
                    self._finish(completion, result)
        if has_ticked:
            self._ticks.beat(self._clock())
        if not is_urgent:
            self._work(result)
        self._forget_idle_rings()
        self._measure(self._clock() - began)
        return result

    def _work(self, result: StepResult) -> None:
        """Encode and decode a bit of every clip."""
        for track in list(self.tracks.values()):
            for epoch in track.open_epochs():
                self._guard(HopId(track.id, epoch, 0), result, partial(self._work_on, track, epoch, result))

    def _work_on(self, track: AnyTrack, epoch: int, result: StepResult) -> None:
        result.windows += track.work(epoch)

    def _tick(self, ring: Ring, result: StepResult) -> list[Completion]:
        """Tick a ring. If that fails, its hops fail, and the other rings go on."""
        try:
            return ring.tick()
        except Exception as error:
            for hop in [slot.request_id for slot in ring.progress() if isinstance(slot.request_id, HopId)]:
                self.drop(hop.track, hop.epoch)
                result.failures.append((hop, error))
            return []

    def _finish(self, completion: Completion, result: StepResult) -> None:
        hop = completion.request_id
        assert isinstance(hop, HopId)
        self._deadlines.pop(hop, None)
        self._flying.pop(hop, None)
        self._generations.setdefault(hop.track, Rhythm()).beat(self._clock())
        self._guard(hop, result, partial(self._complete, hop, completion.latent, result))

    def _admit(self, result: StepResult) -> None:
        waiting = [hop for track in self.tracks.values() for hop in track.waiting() if track.is_due(hop)]
        while waiting:
            hop = min(waiting, key=self._deadline)
            waiting.remove(hop)
            track = self.tracks[hop.track]
            self._guard(hop, result, partial(self._fill, track, hop))
            following = [other for other in track.waiting() if other.epoch == hop.epoch and track.is_due(other)]
            waiting += [other for other in following if other != hop]

    def _fill(self, track: AnyTrack, hop: HopId) -> None:
        """Put a hop into its ring, if there is a slot for it now."""
        ring = self._ring_for(track.ring_key(hop))
        if ring.has_free_slot():
            rank = track.rank(hop)
            ring.admit(track.take(hop))
            self._flying[hop] = rank

    def _revise(self, result: StepResult) -> None:
        """Bring step-time values to what is in flight, to no other rows than those of its track."""
        for track in list(self.tracks.values()):
            for hop, changes in list(track.revisions()):
                self._guard(hop, result, partial(self._revise_one, hop, changes))

    def _revise_one(self, hop: HopId, changes: Mapping[str, Any]) -> None:
        any(ring.revise(hop, changes) for ring in self._rings.values())

    def _complete(self, hop: HopId, latent: torch.Tensor, result: StepResult) -> None:
        if track := self.tracks.get(hop.track):
            result.windows += track.complete(hop, latent)

    def _guard(self, hop: HopId, result: StepResult, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # reported to the one track that it concerns; the others go on
            self.drop(hop.track, hop.epoch)
            result.failures.append((hop, error))

    def _deadline(self, hop: HopId) -> tuple[int, float]:
        """Live streams before loops before bounces; then by when the host needs the hop, counted from when it was ready."""
        track = self.tracks[hop.track]
        if hop not in self._deadlines:
            self._deadlines[hop] = self._clock() + track.slack_s
        return track.rank(hop), self._deadlines[hop]

    def _is_urgent(self, now: float) -> bool:
        """Whether a live stream would miss its deadline at the present pace, and others have not stood still for long."""
        is_late = any(
            self._flying.get(slot.request_id) == URGENT_RANK
            and now + (slot.steps - slot.step) * self._step_s > self._deadlines.get(slot.request_id, now)
            for ring in self._rings.values()
            for slot in ring.progress()
            if isinstance(slot.request_id, HopId)
        )
        has_others = any(rank != URGENT_RANK for rank in self._flying.values())
        self._held_back = self._held_back + 1 if is_late and has_others and self._held_back < MOST_HELD_BACK else 0
        return self._held_back > 0

    def _serves_live_streams(self, ring: Ring) -> bool:
        return any(
            isinstance(slot.request_id, HopId) and self._flying.get(slot.request_id) == URGENT_RANK
            for slot in ring.progress()
        )

    def _measure(self, seconds: float) -> None:
        share = STEP_SMOOTHING if self._step_s else 1.0
        self._step_s += share * (seconds - self._step_s)

    def _ring_for(self, key: tuple[int, int]) -> Ring:
        """The ring of a window length and a condition length; the one used last comes last."""
        if key in self._rings:
            self._rings[key] = self._rings.pop(key)
        else:
            shape = RingShape(
                depth=self.depth,
                frames=key[0],
                channels=self.checkpoint.codec.latent_channels,
                tokens=key[1],
                width=self.checkpoint.condition_width,
            )
            self._rings[key] = Ring(self.checkpoint.decoder, shape, device=self.checkpoint.placement.device)
        return self._rings[key]

    def _forget_idle_rings(self) -> None:
        idle = [key for key, ring in self._rings.items() if not ring.busy]
        for key in idle[:-IDLE_RINGS]:
            del self._rings[key]

    def _cancel(self, concerns: Callable[[HopId], bool]) -> None:
        for ring in self._rings.values():
            for slot in ring.progress():
                if isinstance(slot.request_id, HopId) and concerns(slot.request_id):
                    ring.cancel(slot.request_id)
        for table in (self._deadlines, self._flying):
            for hop in [hop for hop in table if concerns(hop)]:
                del table[hop]  # type: ignore[attr-defined]
