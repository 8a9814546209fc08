# SPDX-License-Identifier: Apache-2.0
"""What a tick costs beside the decoder's forward, per slot and step; and what one vectorised step saves against single ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.decoder import Decoder, Encoded
from tests.bench.measure import Row, Target, compared, interleaved
from tests.bench.models import EMBEDDED, Effort, Subject, load
from tests.bench.requests import BusyRing, Maker, everything, plain

STEPS = 50
"""Of a generation: more than the ticks that are measured, so that none of them admits or finishes anything."""
TICKS, TICKS_BEFORE = 24, 2
FULL_DEPTH = 4
SLOTS_AT_ONCE = 8
ADVANCED = DcwSettings(wavelet="db4", mult_blend=0.3, mag_phase=0.3, soft_thresh=0.01)
MOST_MS = 0.6


class TimedDecoder:
    """A decoder that adds up the seconds that are spent in it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.seconds = 0.0

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """See `Decoder`; not counted."""
        return self._decoder.encode(states, mask, adapters)

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`."""
        began = time.perf_counter()
        velocity = self._decoder(x, t, context, condition, adapters)
        self.seconds += time.perf_counter() - began
        return velocity


class CheapDecoder:
    """Costs next to nothing: the velocity is the source in the context, so that states stay as large as real ones."""

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """See `Decoder`."""
        return (mask,)

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`."""
        return context[..., : x.shape[2]]


class Kind(NamedTuple):
    """What the slots of a ring ask for."""

    name: str
    make: Maker
    dcw: DcwSettings | None
    target: Target | None = None


KINDS = (
    Kind("defaults, no DCW", plain, None),
    Kind("defaults, DCW", plain, DcwSettings(), Target("measured", MOST_MS)),
    Kind("every feature, DCW", everything, DcwSettings()),
    Kind("every feature, DCW of db4 with magnitude and phase", everything, ADVANCED),
)


@torch.no_grad()
def rows(effort: Effort) -> Iterator[Row]:
    """Time outside the forward with the embedded model, then the step alone."""
    subject = load(EMBEDDED)
    for kind in KINDS:
        for depth in effort.depths if kind.make is plain else (FULL_DEPTH,):
            yield _outside_forward(subject, kind, depth, effort)
    for kind in KINDS:
        yield _vectorised(subject, kind, effort)


def _outside_forward(subject: Subject, kind: Kind, depth: int, effort: Effort) -> Row:
    decoder = TimedDecoder(subject.decoder)
    ring = BusyRing(decoder, subject.shape(depth, effort.frames), kind.make, steps=STEPS, dcw=kind.dcw)
    outside, inside = [], []
    ring.refill()
    for _ in range(TICKS_BEFORE):
        ring.tick()
    for _ in range(effort.rounds(TICKS)):
        decoder.seconds, began = 0.0, time.perf_counter()
        ring.tick()
        whole = time.perf_counter() - began
        outside.append((whole - decoder.seconds) / depth)
        inside.append(decoder.seconds / depth)
    return compared(
        f"outside the forward, {effort.frames} frames, depth {depth}, {kind.name}",
        outside,
        "in the forward",
        inside,
        unit="ms/slot/step",
        target=kind.target,
    )


def _vectorised(subject: Subject, kind: Kind, effort: Effort) -> Row:
    """All with the cheap decoder, and with as many rows per forward as there are: nothing is padded."""
    together = _cheap_ring(subject, kind, SLOTS_AT_ONCE, effort)
    single = [_cheap_ring(subject, kind, 1, effort) for _ in range(SLOTS_AT_ONCE)]

    def tick(rings: list[BusyRing]) -> None:
        for ring in rings:
            ring.tick()

    took = interleaved({"together": lambda: tick([together]), "single": lambda: tick(single)}, effort.rounds(TICKS))
    return compared(
        f"step without a model, {effort.frames} frames, one ring of {SLOTS_AT_ONCE} slots, {kind.name}",
        took["together"],
        f"{SLOTS_AT_ONCE} rings of one slot",
        took["single"],
        unit="ms/slot/step",
        value=lambda seconds: 1000 * seconds / SLOTS_AT_ONCE,
    )


def _cheap_ring(subject: Subject, kind: Kind, depth: int, effort: Effort) -> BusyRing:
    shape = subject.shape(depth, effort.frames)
    ring = BusyRing(CheapDecoder(), shape, kind.make, steps=STEPS, batch=depth, dcw=kind.dcw)
    ring.refill()
    return ring
