# SPDX-License-Identifier: Apache-2.0
"""Blends made before a generation starts: of conditions, and of latents or hints. One forward serves the result.

Pure functions, any thread. Weights 0 and 1 select an end rather than multiply, so the ends are exact to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.upload import upload
from shared_protocol.errors import DemonError

if TYPE_CHECKING:  # conditioning itself blends timbre vectors
    from engine_server.model.conditioning import Condition


def lerp(a: Tensor, b: Tensor, weight: CurveLike, *, name: str = "weight") -> Tensor:
    """`(1 - w) a + w b` of two tensors of one shape, `[T, C]` or `[1, T, C]`.

    `weight`: a number or a curve `[T]`, in [0, 1]. Raises DemonError `E_FIELD`, which calls the weight `name`.
    """
    if a.shape != b.shape:
        raise DemonError("E_FIELD", f"shapes are {tuple(a.shape)} and {tuple(b.shape)}; equal ones are expected")
    try:
        curve = canonical_curve(weight, a.shape[-2], name=name, lo=0.0, hi=1.0)
    except ValueError as error:
        raise DemonError("E_FIELD", str(error)) from error
    w = upload(curve.to(a.dtype), a.device).reshape(curve.shape[-a.ndim :])
    return torch.where(w == 0, a, torch.where(w == 1, b, (1 - w) * a + w * b))


def blend(a: Condition, b: Condition, alpha: float) -> Condition:
    """From `a` (alpha 0) to `b` (alpha 1), each zero-padded to the longer; a token counts if it counts in either.

    At 0 and 1 the condition itself comes back, unpadded.
    """
    tokens = max(a.states.shape[1], b.states.shape[1])
    long_a, long_b = _fit(a, tokens), _fit(b, tokens)
    states = lerp(long_a.states, long_b.states, alpha, name="alpha")
    if alpha == 0:
        return a
    if alpha == 1:
        return b
    return replace(a, states=states, mask=long_a.mask | long_b.mask)


def average(a: Condition, b: Condition, weight: float) -> Condition:
    """`a` moved towards `b` by `weight`; `b` is cut or zero-padded to the length of `a`, whose mask stays."""
    return replace(a, states=lerp(a.states, _fit(b, a.states.shape[1]).states, weight))


def weighted_average(conditions: Sequence[Condition], weights: Sequence[float]) -> Condition:
    """The mean of conditions of one shape, by weights that are first scaled to a sum of 1; the first one's mask.

    Raises DemonError `E_FIELD` for a negative or non-finite weight, for weights that are all 0, and for unequal shapes or counts.
    """
    if not conditions or len(conditions) != len(weights):
        raise DemonError(
            "E_FIELD", f"there are {len(conditions)} conditions and {len(weights)} weights; as many, at least 1"
        )
    shapes = {tuple(condition.states.shape) for condition in conditions}
    if len(shapes) > 1:
        raise DemonError(
            "E_FIELD", f"conditions have the shapes {sorted(shapes)}; equal ones are expected: pad them first"
        )
    total = sum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < total < float("inf")):
        raise DemonError("E_FIELD", f"weights are {list(weights)}; finite ones from 0, not all 0, are expected")
    states = torch.zeros_like(conditions[0].states)
    for condition, weight in zip(conditions, weights, strict=True):
        states = states + (weight / total) * condition.states
    return replace(conditions[0], states=states)


def _fit(condition: Condition, tokens: int) -> Condition:
    """The condition cut or zero-padded to `tokens`."""
    extra = tokens - condition.states.shape[1]
    return replace(condition, states=F.pad(condition.states, (0, 0, 0, extra)), mask=F.pad(condition.mask, (0, extra)))
