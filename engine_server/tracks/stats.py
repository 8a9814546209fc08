# SPDX-License-Identifier: Apache-2.0
"""What the engine has done for each track, in numbers for a status table or metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TrackStats:
    """A track from its hello on, at one moment. Frozen: any thread may read what it was given."""

    generations: int = 0
    """Finished: hops of streams, takes of loops, rounds of commits."""
    misses: int = 0
    """Hops of live streams whose audio was ready only after the host needed it."""
    worst_lateness_s: float = 0.0
    """By how much the latest of them missed; 0 without any."""
    skipped: int = 0
    """Hops of live streams that were never begun, because the host had already played past them."""
    slots: int = 0
    """Slots of the ring that the track holds now."""
    slot_ticks: int = 0
    """Steps of denoising made for the track: what it has used of the ring."""

    def __add__(self, other: TrackStats) -> TrackStats:
        """Of both."""
        return TrackStats(
            generations=self.generations + other.generations,
            misses=self.misses + other.misses,
            worst_lateness_s=max(self.worst_lateness_s, other.worst_lateness_s),
            skipped=self.skipped + other.skipped,
            slots=self.slots + other.slots,
            slot_ticks=self.slot_ticks + other.slot_ticks,
        )

    def finished(self, lateness_s: float) -> TrackStats:
        """With another generation, that much after its deadline; 0 or less, also minus infinity, is in time."""
        return replace(
            self,
            generations=self.generations + 1,
            misses=self.misses + (lateness_s > 0),
            worst_lateness_s=max(self.worst_lateness_s, lateness_s),
        )

    def ticked(self) -> TrackStats:
        """With another step of one slot."""
        return replace(self, slot_ticks=self.slot_ticks + 1)
