# SPDX-License-Identifier: Apache-2.0
"""One denoising step of every row at once: pure, branch-free, float32.

Notation: R rows, T frames, C channels. `x` is the state at level `t_now`, `v` the model's velocity (`v ~ noise - clean`), and
levels fall from `t_now` to `t_next`. A row that does not use a feature carries its neutral value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepRows:
    """What a step reads besides state and velocity; one entry per row. Curves are `[R, T, 1]`, latents `[R, T, C]`."""

    source: Tensor
    """Clean source latents; zeros in a row without source."""
    initial_noise: Tensor
    """The slot's own initial noise."""
    start: Tensor
    """Per-frame start level (shifted denoise); at or above the schedule's first level for a frame that is free throughout."""
    velocity_scale: Tensor
    """Neutral: 1."""
    source_blend: Tensor
    """c of `x0 <- c * x0 + (1 - c) * source`; neutral: 1."""
    ode_noise: Tensor
    """Neutral: 0."""
    is_sde: Tensor
    """`[R, 1, 1]` bool."""


def initial_state(rows: StepRows, t_first: Tensor, share: Tensor) -> Tensor:
    """State at the schedule's first level: `w * noise + (1 - w) * source` with `w = share * level`.

    t_first: `[R, 1, 1]`; share: `[R, T, 1]`, neutral 1. Frames that join later begin on the noised source path.
    """
    level = torch.where(rows.start >= t_first, share * t_first, t_first)
    return level * rows.initial_noise + (1.0 - level) * rows.source


def advance(x: Tensor, v: Tensor, t_now: Tensor, t_next: Tensor, rows: StepRows, fresh_noise: Tensor) -> Tensor:
    """The state at `t_next` `[R, T, C]`.

    t_now, t_next: `[R, 1, 1]`; equal in a row that is idle (its result is meaningless and finite). fresh_noise: `[R, T, C]`,
    standard normal; read by SDE rows and by ODE rows with noise, zero elsewhere.

    Clean estimate and source blend as in the design's *one blend, then the solver*; per-frame start after differential
    diffusion (Levin and Fried 2023) along time.
    """
    level = torch.where(t_now > 0, t_now, 1.0)
    scaled = v * rows.velocity_scale
    estimate = x - t_now * scaled
    blended = rows.source_blend * estimate + (1.0 - rows.source_blend) * rows.source

    effective = scaled + (estimate - blended) / level
    ode = x + (t_next - t_now) * effective + fresh_noise * rows.ode_noise * t_next
    sde = t_next * fresh_noise + (1.0 - t_next) * blended
    free = torch.where(t_next <= 0, blended, torch.where(rows.is_sde, sde, ode))
    return _join_frames(free, t_now, t_next, rows)


def _join_frames(free: Tensor, t_now: Tensor, t_next: Tensor, rows: StepRows) -> Tensor:
    """Keep frames on the noised source path until the schedule has come down to their own start level.

    Full and zero weights are selected, not multiplied, so that a constant curve gives a scalar's bits.
    """
    path = t_next * rows.initial_noise + (1.0 - t_next) * rows.source
    drop = torch.where(t_now > t_next, t_now - t_next, 1.0)
    joining = path + (rows.start - t_next) / drop * (free - path)
    return torch.where(rows.start >= t_now, free, torch.where(rows.start <= t_next, path, joining))
