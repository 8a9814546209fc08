# SPDX-License-Identifier: Apache-2.0
"""The rings of an engine: one for each window length and condition length, made when a hop asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine_server.diffusion.ring import Ring, SlotProgress
from engine_server.diffusion.rows import RingShape
from engine_server.model.checkpoint import Checkpoint
from engine_server.tracks.windows import HopId, RingKey

IDLE_RINGS = 4
"""Rings that are kept for what may come; clips bring many lengths."""


class Rings(Mapping[RingKey, Ring]):
    """Rings by key, the one used last in the last place. One thread."""

    def __init__(self, checkpoint: Checkpoint, depth: int) -> None:
        self._checkpoint = checkpoint
        self._depth = depth
        self._rings: dict[RingKey, Ring] = {}

    def __getitem__(self, key: RingKey) -> Ring:
        return self._rings[key]

    def __iter__(self) -> Iterator[RingKey]:
        return iter(self._rings)

    def __len__(self) -> int:
        return len(self._rings)

    def use(self, key: RingKey) -> Ring:
        """The ring of a key, made if there is none."""
        if key in self._rings:
            self._rings[key] = self._rings.pop(key)
            return self._rings[key]
        checkpoint = self._checkpoint
        shape = RingShape(
            depth=self._depth,
            frames=key[0],
            channels=checkpoint.codec.latent_channels,
            tokens=key[1],
            width=checkpoint.condition_width,
        )
        self._rings[key] = Ring(checkpoint.decoder, shape, device=checkpoint.placement.device)
        return self._rings[key]

    def busy(self) -> list[tuple[RingKey, Ring]]:
        """Those with something in flight."""
        return [(key, ring) for key, ring in self._rings.items() if ring.busy]

    def cancel(self, hop: HopId) -> None:
        """Free the slot of a hop, if it has one."""
        any(ring.cancel(hop) for ring in self._rings.values())

    def revise(self, hop: HopId, changes: Mapping[str, Any]) -> None:
        """Change step-time values of a hop, if it is in flight. Raises ValueError as `Ring.revise` does."""
        any(ring.revise(hop, changes) for ring in self._rings.values())

    def forget_idle(self) -> None:
        """Keep few of those that stand still: the ones used last."""
        idle = [key for key, ring in self._rings.items() if not ring.busy]
        for key in idle[:-IDLE_RINGS]:
            del self._rings[key]


def hops_in(ring: Ring) -> list[tuple[HopId, SlotProgress]]:
    """The hops in flight in a ring, in slot order."""
    return [(slot.request_id, slot) for slot in ring.progress() if isinstance(slot.request_id, HopId)]
