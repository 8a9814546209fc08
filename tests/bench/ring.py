# SPDX-License-Identifier: Apache-2.0
"""Ticks and generations per second of a full ring at several depths."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.ring import DEFAULT_BATCH
from tests.bench.forward import ours
from tests.bench.measure import Action, Row, compared, interleaved
from tests.bench.models import LARGER, Effort, load
from tests.bench.requests import BusyRing

STEPS = 8
"""Of a generation, and ticks of one measurement: in so many ticks every slot finishes once."""


def rows(effort: Effort) -> Iterator[Row]:
    """Rows of every model."""
    for name in effort.models:
        yield from _at_depths(name, effort)


def _at_depths(name: str, effort: Effort) -> Iterator[Row]:
    subject = load(name)
    what = f"{name}: {effort.frames} frames, {STEPS} steps, depth"
    with torch.no_grad():
        bare = ours(subject.decoder, subject.inputs(DEFAULT_BATCH, effort.frames))
        actions: dict[str, Action] = {"bare": lambda: bare()}
        for depth in effort.depths:
            ring = BusyRing(subject.decoder, subject.shape(depth, effort.frames), steps=STEPS, dcw=DcwSettings())
            actions[str(depth)] = _generation_of_every_slot(ring)
        took = interleaved(actions, effort.rounds(2 if name == LARGER else 7))
    for depth in effort.depths:
        forwards = -(-depth // DEFAULT_BATCH)
        yield compared(
            f"{what} {depth}: ticks",
            took[str(depth)],
            f"bare forwards of {forwards} x {DEFAULT_BATCH} rows",
            took["bare"],
            unit="ticks/s",
            value=lambda seconds: STEPS / seconds,
            baseline_value=lambda seconds, forwards=forwards: 1 / (forwards * seconds),  # type: ignore[misc]
        )
    for depth in effort.depths:
        yield compared(
            f"{what} {depth}: generations",
            took[str(depth)],
            "depth 1",
            took["1"],
            unit="generations/s",
            value=lambda seconds, depth=depth: depth / seconds,  # type: ignore[misc]
            baseline_value=lambda seconds: 1 / seconds,
        )


def _generation_of_every_slot(ring: BusyRing) -> Action:
    """Ticks and admissions until every slot has finished once."""

    ring.stagger()

    def run() -> None:
        for _ in range(STEPS):
            ring.refill()
            ring.tick()

    return run
