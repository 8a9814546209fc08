# SPDX-License-Identifier: Apache-2.0
"""The plain sampler that the evaluation uses: Euler steps from noise mixed with the source."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from engine_server.model.dit import DitForward
from training.modules import DiffusionModules


def schedule(steps: int, shift: float, start: float) -> Tensor:
    """Falling noise levels from `start` to 0: [steps + 1]."""
    t = torch.linspace(1, 0, steps + 1)
    return start * shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def generate(
    modules: DiffusionModules,
    source: Tensor,
    condition: tuple[Tensor, Tensor],
    *,
    denoise: float = 1.0,
    steps: int = 8,
    shift: float = 3.0,
    guidance: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Covers of `source` [B, T, 64] under a condition (states [B, L, D], mask [B, L]); all rows share one noise.

    With a `guidance` other than 1 the velocity is moved away from that of the null condition.
    """
    forward = DitForward(modules.transformer)
    states, mask = condition
    positive = forward.encode(states, mask)
    negative = forward.encode(modules.condition_encoder.null_condition_emb.expand_as(states), mask)
    noise = torch.randn(1, *source.shape[1:], generator=torch.Generator().manual_seed(seed))
    x = denoise * noise + (1 - denoise) * source
    context = torch.cat([source, torch.ones_like(source)], dim=-1)
    for t, t_next in pairwise(schedule(steps, shift, denoise)):
        level = t.expand(len(x))
        velocity = forward(x, level, context, positive)
        if guidance != 1:
            null_velocity = forward(x, level, context, negative)
            velocity = null_velocity + guidance * (velocity - null_velocity)
        x = x + (t_next - t) * velocity
    return x
