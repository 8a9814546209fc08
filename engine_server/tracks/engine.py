# SPDX-License-Identifier: Apache-2.0
"""The engine: all tracks over shared rings. One call of `step` admits, ticks, decodes and encodes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from engine_server.diffusion.ring import DEFAULT_BATCH, Completion, Ring
from engine_server.model.aside import Lead
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.memory import memory_full
from engine_server.tracks.any_track import AnyTrack
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.rhythm import Rhythm
from engine_server.tracks.rings import Rings, hops_in
from engine_server.tracks.scheduler import Precedence, Queue, Scheduler, Waiting
from engine_server.tracks.stats import TrackStats
from engine_server.tracks.windows import AudioWindow, HopId, Rank, Revision, RingKey

DEFAULT_DEPTH = DEFAULT_BATCH
"""Slots of a ring: as many as a forward has rows."""
WORK_AT_ONCE = 4
"""Clips that are encoded and decoded a bit, and references that are encoded a bit, per step: no more make all others wait."""
STEP_SMOOTHING = 0.2
BACKEND_BYTES = 64
"""What `welcome` takes: some GPUs have longer names."""


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

    loras: folders of LoRA files that tracks may name by content. clock: seconds that never fall, for deadlines and rhythms; no
    bit of any result depends on it.
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
        self._rings = Rings(checkpoint, depth)
        self._scheduler, self._precedence = Scheduler(), Precedence()
        self._clips, self._references = Queue(), Queue()
        self._flights: dict[HopId, Waiting] = {}
        """Everything in flight, with its rank and deadline."""
        self._landed: dict[HopId, float] = {}
        """The deadlines of those whose latents are finished, and whose audio is being made."""
        self._lead = Lead(checkpoint.placement.device)
        self._queues: dict[RingKey, list[Waiting]] = {}
        """What waits for a slot after the last admissions."""
        self._ticks = Rhythm()
        self._generations: dict[str, Rhythm] = {}
        self._stats: dict[str, TrackStats] = {}
        self.left = TrackStats()
        """What was done for tracks that have left."""
        self._step_s = 0.0

    @property
    def backend(self) -> str:
        """What computes, in words; part of every receipt. For a GPU its name, for the CPU the number of threads."""
        text = f"{self.checkpoint.backend}, {self.checkpoint.placement.processor}"
        return text.encode()[:BACKEND_BYTES].decode(errors="ignore").rstrip()

    @property
    def step_s(self) -> float:
        """What a step takes, in seconds, smoothed."""
        return self._step_s

    def rhythm(self, track_id: str) -> tuple[float, float]:
        """Ticks of the engine and finished generations of a track, both per second."""
        now, generations = self._clock(), self._generations.get(track_id)
        return self._ticks.per_second(now), generations.per_second(now) if generations else 0.0

    def stats(self) -> dict[str, TrackStats]:
        """What has been done for every track that is here, by its id, as of now: a copy."""
        held = [hop.track for hop in self._flights]
        return {
            name: replace(self._stats_of(name), skipped=track.skipped, slots=held.count(name))
            for name, track in self.tracks.items()
        }

    def count_anew(self) -> None:
        """Forget how long steps took and what was done for tracks that have left."""
        self.left, self._step_s = TrackStats(), 0.0

    def remove(self, track_id: str) -> None:
        """Forget a track and everything in flight for it."""
        if track := self.tracks.pop(track_id, None):
            self.left += replace(self._stats_of(track_id), skipped=track.skipped)
        self._generations.pop(track_id, None)
        self._stats.pop(track_id, None)
        self._forget(lambda hop: hop.track == track_id)

    def drop(self, track_id: str, epoch: int) -> None:
        """Forget an epoch of a track and everything in flight for it."""
        if track_id in self.tracks:
            self.tracks[track_id].drop(epoch)
        self._forget(lambda hop: hop.track == track_id and hop.epoch == epoch)

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._flights) or any(
            track.sound.references.is_encoding() or track.open_epochs() or track.waiting() or track.decoding()
            for track in self.tracks.values()
        )

    def progress(self) -> list[HopProgress]:
        """Every hop in flight, then every hop that waits for a slot (with no step done)."""
        flying = [
            HopProgress(hop, self.tracks[hop.track].frame_of(hop), slot.step, slot.steps)
            for ring in self._rings.values()
            for hop, slot in hops_in(ring)
            if hop.track in self.tracks
        ]
        waiting = [
            HopProgress(hop, track.frame_of(hop), 0, track.sound.steps)
            for track in self.tracks.values()
            for hop in track.waiting()
        ]
        return flying + waiting

    def step(self) -> StepResult:
        """Fill free slots in the scheduler's order, tick every busy ring once, decode what has become ready.

        On a GPU the audio that a step begins is made beside the ticks of the next one, which hands it out.
        What cannot be prepared, computed or decoded fails alone: its epoch is dropped and reported. Other rings, and work on
        clips and references, stand still while a live stream is about to be late.
        """
        result, began = StepResult(), self._clock()
        for track in self.tracks.values():
            track.tick(self.depth, began)
        self._cancel(lambda hop: not self._is_wanted(hop))
        self._admit(result)
        self._revise(result)
        is_urgent = self._precedence.decide(is_late=self._is_late(began))
        has_ticked = False
        for key, ring in self._rings.busy():
            if not is_urgent or self._serves_live_streams(key, ring):
                has_ticked = True
                for completion in self._tick(ring, result):
                    self._finish(completion, result)
        if has_ticked:
            self._ticks.beat(self._clock())
        if not is_urgent:
            self._work(result)
        if has_ticked:
            self._lead.keep()
        self._collect(result)
        self._rings.forget_idle()
        self._measure(self._clock() - began)
        return result

    def _admit(self, result: StepResult) -> None:
        now = self._clock()
        self._queues = {}
        for track in list(self.tracks.values()):
            for hop in track.waiting():
                self._enqueue(track, hop, result)
        self._scheduler.begin(itertools.chain.from_iterable(self._queues.values()))
        for key, queue in list(self._queues.items()):
            ring = self._rings.use(key)
            while queue and ring.has_free_slot():
                chosen = self._scheduler.choose(queue, now)
                self._scheduler.give(chosen, queue, now)
                queue.remove(chosen)
                track, epoch = self.tracks[chosen.hop.track], chosen.hop.epoch
                self._guard(chosen.hop, result, partial(self._fill, ring, track, chosen))
                for following in [hop for hop in track.waiting() if hop.epoch == epoch]:
                    self._enqueue(track, following, result)

    def _enqueue(self, track: AnyTrack, hop: HopId, result: StepResult) -> None:
        """Have a hop wait for a slot of its ring, if it is time for it."""

        def enqueue() -> None:
            if track.is_due(hop):
                queue = self._queues.setdefault(track.ring_key(hop), [])
                queue.append(Waiting(hop, track.rank(hop), track.deadline(hop)))

        self._guard(hop, result, enqueue)

    def _fill(self, ring: Ring, track: AnyTrack, chosen: Waiting) -> None:
        ring.admit(track.take(chosen.hop))
        self._flights[chosen.hop] = chosen

    def _revise(self, result: StepResult) -> None:
        """Bring step-time values to what is in flight, to no other rows than those of its track."""
        for track in list(self.tracks.values()):
            for hop, revision in list(track.revisions()):
                self._guard(hop, result, partial(self._revise_hop, hop, revision))

    def _revise_hop(self, hop: HopId, revision: Revision) -> None:
        self._rings.revise(hop, revision())

    def _tick(self, ring: Ring, result: StepResult) -> list[Completion]:
        """Tick a ring. If that fails, its hops fail, and the other rings go on."""
        hops = [hop for hop, _ in hops_in(ring)]
        try:
            completions = ring.tick()
        except Exception as error:
            reason = _reason(error)
            for hop in hops:
                self.drop(hop.track, hop.epoch)
                result.failures.append((hop, reason))
            return []
        for hop in hops:
            self._stats[hop.track] = self._stats_of(hop.track).ticked()
        return completions

    def _finish(self, completion: Completion, result: StepResult) -> None:
        hop = completion.request_id
        assert isinstance(hop, HopId)
        flight = self._flights.pop(hop, None)
        if flight is None:
            return  # an earlier one of this tick failed, and its epoch was dropped
        self._generations.setdefault(hop.track, Rhythm()).beat(self._clock())
        self._guard(hop, result, partial(self._complete, hop, completion.latent, result))
        self._landed[hop] = flight.deadline
        self._settle_landed()

    def _complete(self, hop: HopId, latent: torch.Tensor, result: StepResult) -> None:
        result.windows += self.tracks[hop.track].complete(hop, latent)

    def _collect(self, result: StepResult) -> None:
        """Hand out the audio that was begun in the step before: it was made beside the ticks that this one has launched."""
        for track in list(self.tracks.values()):
            for epoch in track.decoding():
                self._guard(HopId(track.id, epoch, 0), result, partial(self._collect_from, track, epoch, result))
        self._settle_landed()

    def _collect_from(self, track: AnyTrack, epoch: int, result: StepResult) -> None:
        result.windows += track.collect(epoch)

    def _settle_landed(self) -> None:
        """Count those whose audio is no longer to come, with how late it was."""
        for hop, deadline in list(self._landed.items()):
            if not self.tracks[hop.track].is_decoding(hop):
                del self._landed[hop]
                self._stats[hop.track] = self._stats_of(hop.track).finished(self._clock() - deadline)

    def _work(self, result: StepResult) -> None:
        """Encode a bit of some references, encode and decode a bit of some clips: those whose turn it is."""
        tracks = list(self.tracks.values())
        uploads = [(track.id, 0) for track in tracks if track.sound.references.is_encoding()]
        for name, _ in self._references.next(uploads, WORK_AT_ONCE):
            self._guard(HopId(name, 0, 0), result, self.tracks[name].sound.references.encode_some)
        clips = [(track.id, epoch) for track in tracks for epoch in track.open_epochs()]
        for name, epoch in self._clips.next(clips, WORK_AT_ONCE):
            self._guard(HopId(name, epoch, 0), result, partial(self._work_on, name, epoch, result))

    def _work_on(self, name: str, epoch: int, result: StepResult) -> None:
        result.windows += self.tracks[name].work(epoch)

    def _guard(self, hop: HopId, result: StepResult, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # reported to the one track that it concerns; the others go on
            self.drop(hop.track, hop.epoch)
            result.failures.append((hop, _reason(error)))

    def _is_late(self, now: float) -> bool:
        """Whether a live stream would miss its deadline at the present pace."""
        return any(
            self._flights[hop].is_late(now, (slot.steps - slot.step + self._lead.ticks) * self._step_s)
            for _, ring in self._rings.busy()
            for hop, slot in hops_in(ring)
        ) or any(
            each.is_late(now, (self.tracks[each.hop.track].sound.steps + self._lead.ticks) * self._step_s)
            for queue in self._queues.values()
            for each in queue
        )

    def _serves_live_streams(self, key: RingKey, ring: Ring) -> bool:
        """Whether a live hop flies in a ring, or waits for a slot of it."""
        flying = (self._flights[hop] for hop, _ in hops_in(ring))
        return any(each.rank is Rank.LIVE for each in itertools.chain(flying, self._queues.get(key, ())))

    def _measure(self, seconds: float) -> None:
        share = STEP_SMOOTHING if self._step_s else 1.0
        self._step_s += share * (seconds - self._step_s)

    def _stats_of(self, track_id: str) -> TrackStats:
        return self._stats.get(track_id) or TrackStats()

    def _is_wanted(self, hop: HopId) -> bool:
        track = self.tracks.get(hop.track)
        return track is not None and track.wants(hop)

    def _forget(self, concerns: Callable[[HopId], bool]) -> None:
        self._cancel(concerns)
        self._landed = {hop: deadline for hop, deadline in self._landed.items() if not concerns(hop)}

    def _cancel(self, concerns: Callable[[HopId], bool]) -> None:
        for hop in [hop for hop in self._flights if concerns(hop)]:
            self._rings.cancel(hop)
            del self._flights[hop]


def _reason(error: Exception) -> Exception:
    """A failure as it is reported. Where a GPU's memory is full the original would hold what it was full of."""
    if isinstance(error, torch.OutOfMemoryError):
        return memory_full(error, "have fewer tracks and shorter clips on this engine")
    return error
