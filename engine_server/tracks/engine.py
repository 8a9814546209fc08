# SPDX-License-Identifier: Apache-2.0
"""The engine: all tracks over shared rings. One call of `step` admits, ticks and decodes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from engine_server.diffusion.ring import DEFAULT_BATCH, Completion, Ring
from engine_server.diffusion.rows import RingShape
from engine_server.model.checkpoint import Checkpoint
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.track import AudioWindow, HopId, Track
from shared_protocol.timebase import FRAMES_PER_SECOND

DEFAULT_DEPTH = DEFAULT_BATCH
"""Slots of a ring: as many as a forward has rows."""


@dataclass(frozen=True)
class HopProgress:
    """How far a hop in flight has come."""

    hop: HopId
    step: int
    steps: int


@dataclass
class StepResult:
    """What one step brought: finished windows, and the tracks that failed with the reason."""

    windows: list[AudioWindow] = field(default_factory=list)
    failures: list[tuple[HopId, Exception]] = field(default_factory=list)


class Engine:
    """Tracks share rings: one ring for each window length and condition length. One thread at a time."""

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
        self.tracks: dict[str, Track] = {}
        self.depth = depth
        self._clock = clock
        self._rings: dict[tuple[int, int], Ring] = {}
        self._deadlines: dict[HopId, float] = {}

    @property
    def backend(self) -> str:
        """What computes, in words; part of every receipt."""
        return f"{self.checkpoint.backend}, {torch.get_num_threads()} threads"

    def remove(self, track_id: str) -> None:
        """Forget a track and everything in flight for it."""
        self.tracks.pop(track_id, None)
        self._cancel(lambda hop: hop.track == track_id)

    def drop(self, track_id: str, epoch: int) -> None:
        """Forget an epoch of a track and everything in flight for it."""
        if track_id in self.tracks:
            self.tracks[track_id].drop(epoch)
        self._cancel(lambda hop: hop.track == track_id and hop.epoch == epoch)

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return any(ring.busy for ring in self._rings.values()) or any(
            track.next_hop() or track.sound.references.is_encoding() for track in self.tracks.values()
        )

    def progress(self) -> list[HopProgress]:
        """Every hop in flight, then every hop that waits for a slot (with no step done)."""
        slots = itertools.chain.from_iterable(ring.progress() for ring in self._rings.values())
        flying = [
            HopProgress(slot.request_id, slot.step, slot.steps) for slot in slots if isinstance(slot.request_id, HopId)
        ]
        waiting = [HopProgress(hop, 0, track.steps) for track in self.tracks.values() if (hop := track.next_hop())]
        return flying + waiting

    def step(self) -> StepResult:
        """Fill free slots, earliest deadline first, tick every busy ring once, decode what has become ready.

        What cannot be prepared, computed or decoded fails alone: its epoch is dropped and reported.
        """
        result = StepResult()
        for track in self.tracks.values():
            track.sound.references.encode_some()
        self._admit(result)
        for ring in self._rings.values():
            for completion in self._tick(ring, result):
                hop = completion.request_id
                assert isinstance(hop, HopId)
                self._deadlines.pop(hop, None)
                self._guard(hop, result, partial(self._complete, hop, completion.latent, result))
        return result

    def _tick(self, ring: Ring, result: StepResult) -> list[Completion]:
        """Tick a ring. If that fails, its hops fail, and the other rings go on."""
        if not ring.busy:
            return []
        try:
            return ring.tick()
        except Exception as error:
            for hop in [slot.request_id for slot in ring.progress() if isinstance(slot.request_id, HopId)]:
                self.drop(hop.track, hop.epoch)
                result.failures.append((hop, error))
            return []

    def _admit(self, result: StepResult) -> None:
        waiting = [hop for track in self.tracks.values() if (hop := track.next_hop())]
        while waiting:
            hop = min(waiting, key=self._deadline)
            waiting.remove(hop)
            track = self.tracks[hop.track]
            self._guard(hop, result, partial(self._fill, track, hop))
            following = track.next_hop()
            if following and following != hop:
                waiting.append(following)

    def _fill(self, track: Track, hop: HopId) -> None:
        """Put a hop into its ring, if there is a slot for it now."""
        ring = self._ring_for(track.ring_key(hop))
        if ring.has_free_slot():
            ring.admit(track.take(hop))

    def _complete(self, hop: HopId, latent: torch.Tensor, result: StepResult) -> None:
        if track := self.tracks.get(hop.track):
            result.windows += track.complete(hop, latent)

    def _guard(self, hop: HopId, result: StepResult, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # reported to the one track that it concerns; the others go on
            self.drop(hop.track, hop.epoch)
            result.failures.append((hop, error))

    def _deadline(self, hop: HopId) -> tuple[bool, float]:
        """Live tracks before bounces; then by the time at which the host needs the hop, counted from when it was ready."""
        track = self.tracks[hop.track]
        if hop not in self._deadlines:
            slack = (track.latency - track.geometry.minimum_latency) / FRAMES_PER_SECOND
            self._deadlines[hop] = self._clock() + slack
        return track.is_offline(hop), self._deadlines[hop]

    def _ring_for(self, key: tuple[int, int]) -> Ring:
        """The ring of a window length and a condition length."""
        if key not in self._rings:
            shape = RingShape(
                depth=self.depth,
                frames=key[0],
                channels=self.checkpoint.codec.latent_channels,
                tokens=key[1],
                width=self.checkpoint.condition_width,
            )
            self._rings[key] = Ring(self.checkpoint.decoder, shape, device=self.checkpoint.placement.device)
        return self._rings[key]

    def _cancel(self, concerns: Callable[[HopId], bool]) -> None:
        for ring in self._rings.values():
            for slot in ring.progress():
                if isinstance(slot.request_id, HopId) and concerns(slot.request_id):
                    ring.cancel(slot.request_id)
        for hop in [hop for hop in self._deadlines if concerns(hop)]:
            del self._deadlines[hop]
