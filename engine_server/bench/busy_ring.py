# SPDX-License-Identifier: Apache-2.0
"""A ring that is always full, its slots one after the other: what an engine at work is like."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine_server.bench.clock import Clock
from engine_server.diffusion.decoder import Decoder, Encoded
from engine_server.diffusion.noise import PositionNoise
from engine_server.diffusion.request import ConditionEntry, SlotRequest
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape

STEPS = 8
"""Of a generation: those of a turbo checkpoint."""


class MarkedDecoder:
    """A decoder with a mark of the clock before and after every forward, and a count of their rows."""

    def __init__(self, decoder: Decoder, clock: Clock) -> None:
        self._decoder = decoder
        self._clock = clock
        self.marks: list[tuple[Any, Any]] = []
        self.rows = 0
        """That forwards were given, those that only fill up a batch included."""

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """See `Decoder`; not marked."""
        return self._decoder.encode(states, mask, adapters)

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`."""
        first = self._clock.mark()
        velocity = self._decoder(x, t, context, condition, adapters)
        self.marks.append((first, self._clock.mark()))
        self.rows += len(x)
        return velocity

    def forget(self) -> None:
        """Begin anew with marks and rows."""
        self.marks, self.rows = [], 0


@dataclass
class Marks:
    """Pairs of the clock's marks."""

    ticks: list[tuple[Any, Any]] = field(default_factory=list)
    generations: list[tuple[Any, Any]] = field(default_factory=list)
    """From submission to latents, of those that began and ended in this time: others may have seen a device warm up."""
    finished: int = 0
    """All generations that ended."""


class BusyRing:
    """Covers of random sources with one prompt, all else by default. One thread."""

    def __init__(self, decoder: Decoder, shape: RingShape, device: torch.device, clock: Clock) -> None:
        self._ring = Ring(decoder, shape, device=device)
        self._clock = clock
        self._numbers = itertools.count()
        self._submitted: dict[Hashable, Any] = {}
        self._marks = Marks()
        draw = torch.Generator().manual_seed(1)
        T, C = shape.frames, shape.channels
        self._request = SlotRequest(
            request_id=None,
            noise=PositionNoise(0, 0),
            context=torch.randn(T, 2 * C, generator=draw).to(device),
            conditions=[
                ConditionEntry(
                    torch.randn(shape.tokens, shape.width, generator=draw).to(device),
                    torch.ones(shape.tokens, dtype=torch.bool, device=device),
                )
            ],
            source=torch.randn(T, C, generator=draw).to(device),
            steps=STEPS,
        )
        apart = max(1, STEPS // shape.depth)
        for _ in range(shape.depth):
            self._submit()
            for _ in range(apart):
                self.tick()
        self.refill()

    def refill(self) -> None:
        """Submit a generation for every free slot."""
        while self._ring.has_free_slot():
            self._submit()

    def tick(self) -> None:
        """Mark and make one tick."""
        first = self._clock.mark()
        finished = self._ring.tick()
        last = self._clock.mark()
        self._marks.ticks.append((first, last))
        self._marks.finished += len(finished)
        for one in finished:
            if one.request_id in self._submitted:
                self._marks.generations.append((self._submitted.pop(one.request_id), last))

    def taken_marks(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks()
        self._submitted.clear()
        return marks

    def _submit(self) -> None:
        number = next(self._numbers)
        self._submitted[number] = self._clock.mark()
        self._ring.admit(replace(self._request, request_id=number, noise=PositionNoise(number, 0)))
