# SPDX-License-Identifier: Apache-2.0
"""How a forward's time per frame grows with the duration, against the growth that attention explains.

`engine_server.bench.flops` counts the operations of a token (two latent frames); the prediction is the quotient of two such
counts. It takes every operation to last equally long; to see how far that holds, the time outside self-attention is measured
too, whose share per frame should not grow at all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch

from engine_server.bench.flops import token_flops
from engine_server.model import dit_block
from tests.bench.forward import ours
from tests.bench.measure import Action, Row, Target, timed
from tests.bench.models import FRAMES_PER_SECOND, LARGER, Effort, Subject, load

TOLERANCE = 0.9
"""A target for figures that scatter: growth may exceed the prediction by a ninth."""
REPEATED_TO_S = 60
"""Forwards of shorter durations are repeated in every round until so much has been computed."""


@torch.inference_mode()
def rows(effort: Effort) -> Iterator[Row]:
    """Rows of every model."""
    for name in effort.models:
        yield from _growth(load(name), effort)


def _growth(subject: Subject, effort: Effort) -> Iterator[Row]:
    first, *longer = effort.durations_s
    per_frame = _seconds_per_frame(subject, effort)
    operations = {
        duration: token_flops(subject.transformer.config, duration * FRAMES_PER_SECOND // 2, subject.tokens)
        for duration in effort.durations_s
    }
    for duration in longer:
        what = f"{subject.name}: time per frame, {duration} s over {first} s"
        predicted = operations[duration] / operations[first]
        whole, whole_first = (per_frame[length][0] for length in (duration, first))
        yield _grown(
            what,
            whole,
            whole_first,
            "growth of the operations per frame",
            predicted,
            note=f"{1000 * statistics.median(whole):.3f} ms",
        )
        outside, outside_first = (per_frame[length][1] for length in (duration, first))
        yield _grown(f"{what}, outside self-attention", outside, outside_first, "no growth", 1.0)


def _grown(
    name: str, long: Sequence[float], short: Sequence[float], against: str, predicted: float, note: str = ""
) -> Row:
    """How much more a frame takes in the long series than in the short one of the same rounds."""
    ratios = sorted(predicted * b / a for a, b in zip(long, short, strict=True))
    return Row(
        name,
        statistics.median(long) / statistics.median(short),
        against,
        predicted,
        "x",
        ratio_range=(ratios[0], ratios[-1]),
        target=Target("ratio", TOLERANCE),
        note=note,
    )


def _seconds_per_frame(subject: Subject, effort: Effort) -> dict[int, tuple[list[float], list[float]]]:
    """By duration, for every round: of a forward of one row, and of its part outside self-attention."""
    forwards = {
        duration: ours(subject.decoder, subject.inputs(1, duration * FRAMES_PER_SECOND))
        for duration in effort.durations_s
    }
    per_frame: dict[int, tuple[list[float], list[float]]] = {duration: ([], []) for duration in forwards}
    for forward in forwards.values():
        forward()
    for _ in range(effort.rounds(2 if subject.name == LARGER else 5)):
        for duration, forward in forwards.items():
            repetitions, frames = max(1, REPEATED_TO_S // duration), duration * FRAMES_PER_SECOND
            splits = [_split(forward, frames // 2) for _ in range(repetitions)]
            for series, seconds in zip(per_frame[duration], map(sum, zip(*splits, strict=True)), strict=True):
                series.append(seconds / (repetitions * frames))
    return per_frame


def _split(forward: Action, tokens: int) -> tuple[float, float]:
    """Seconds of a forward, and of all in it but self-attention (whose Linears do not belong to it here)."""
    attention = 0.0

    def timing(attend: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def timed_attend(query: torch.Tensor, key: torch.Tensor, *more: Any) -> torch.Tensor:
            nonlocal attention
            began = time.perf_counter()
            out = attend(query, key, *more)
            if key.shape[-2] == tokens:  # in cross-attention it is the condition's length
                attention += time.perf_counter() - began
            return out

        return timed_attend

    with (
        patch.object(dit_block, "attend", timing(dit_block.attend)),
        patch.object(dit_block, "attend_by_blocks", timing(dit_block.attend_by_blocks)),
    ):
        whole = timed(forward)
    return whole, whole - attention
