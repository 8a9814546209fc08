# SPDX-License-Identifier: Apache-2.0
"""How a forward's time per frame grows with the duration, against the growth that attention explains.

The model of the operations per token (two latent frames), a multiplication and an addition counting as two:

    linear       2 in out, summed over the blocks' Linears and the convolutions at both ends
    attention    4 K heads head_dim per block and attention, for the products with K keys and with K values

K is the number of condition tokens in cross-attention, the number of all tokens in full self-attention, and in a banded one the
number of tokens within the band, on average. Keys and values of the condition are remembered and cost nothing. The prediction
is the quotient of two such sums. It takes every operation to last equally long; to see how far that holds, the time outside
self-attention is measured too, whose share per frame should not grow at all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from engine_server.model import dit_block
from tests.bench.forward import ours
from tests.bench.measure import Action, Row, Target, timed
from tests.bench.models import FRAMES_PER_SECOND, LARGER, Effort, Subject, load

TOLERANCE = 0.9
"""A target for figures that scatter: growth may exceed the prediction by a ninth."""


@torch.inference_mode()
def rows(effort: Effort) -> Iterator[Row]:
    """Rows of every model."""
    for name in effort.models:
        yield from _growth(load(name), effort)


def operations_per_token(transformer: Any, tokens: int, condition_tokens: int) -> float:
    """See the module."""
    config = transformer.config
    linear = sum(
        2 * part.in_features * part.out_features
        for name, part in transformer.layers.named_modules()
        if isinstance(part, nn.Linear) and not name.endswith(("cross_attn.to_k", "cross_attn.to_v"))
    )
    ends = 2 * (transformer.proj_in_conv.weight.numel() + transformer.proj_out_conv.weight.numel())
    keys = sum(
        condition_tokens + (tokens if kind == "full_attention" else keys_in_band(tokens, config.sliding_window))
        for kind in transformer.layer_types
    )
    return linear + ends + 4 * keys * config.num_attention_heads * config.head_dim


def keys_in_band(tokens: int, window: int) -> float:
    """Tokens at most `window` away from a token, itself included: the mean over all tokens."""
    reach = min(window, tokens - 1)
    return 1 + 2 * reach - reach * (reach + 1) / tokens


def _growth(subject: Subject, effort: Effort) -> Iterator[Row]:
    durations = effort.durations_s
    seconds = {duration: _times(subject, duration, effort) for duration in durations}
    first = durations[0]
    for duration in durations[1:]:
        longer = duration / first
        whole, outside = (seconds[duration][k] / seconds[first][k] / longer for k in (0, 1))
        counted = [
            operations_per_token(subject.transformer, length * FRAMES_PER_SECOND // 2, subject.tokens)
            for length in (duration, first)
        ]
        what = f"{subject.name}: time per frame, {duration} s over {first} s"
        yield Row(
            what,
            whole,
            "growth of the operations per frame",
            counted[0] / counted[1],
            "x",
            target=Target("ratio", TOLERANCE),
            note=f"{1000 * seconds[duration][0] / (duration * FRAMES_PER_SECOND):.3f} ms per frame",
        )
        yield Row(f"{what}, outside self-attention", outside, "no growth", 1.0, "x", target=Target("ratio", TOLERANCE))


def _times(subject: Subject, duration: int, effort: Effort) -> tuple[float, float]:
    """Median seconds of a forward of one row, and of its part outside self-attention."""
    forward = ours(subject.decoder, subject.inputs(1, duration * FRAMES_PER_SECOND))
    forward()
    takes_long = subject.name == LARGER or duration > 60
    split = [_split(forward, duration * FRAMES_PER_SECOND // 2) for _ in range(effort.rounds(3 if takes_long else 15))]
    whole, inside = zip(*split, strict=True)
    return statistics.median(whole), statistics.median(a - b for a, b in zip(whole, inside, strict=True))


def _split(forward: Action, tokens: int) -> tuple[float, float]:
    """Seconds of a forward, and of the self-attention (without its Linears) in it."""
    attend, seconds = dit_block.attend, 0.0

    def timed_attend(query: torch.Tensor, key: torch.Tensor, *more: Any) -> torch.Tensor:
        nonlocal seconds
        began = time.perf_counter()
        out = attend(query, key, *more)
        if key.shape[-2] == tokens:
            seconds += time.perf_counter() - began
        return out

    with patch.object(dit_block, "attend", timed_attend):
        return timed(forward), seconds
