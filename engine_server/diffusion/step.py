# SPDX-License-Identifier: Apache-2.0
"""One denoising step of every row at once: pure, float32, without branches on a row's data.

Notation: R rows, T frames, C channels. `x` is the state at level `now`, `v` the model's velocity (`v ~ noise - clean`), and
levels fall from `now` to `next`. A row that does not use a feature carries its neutral value; a feature that no row uses may be
left out (`features`), which changes no bit.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from engine_server.diffusion.dcw import DcwPlan, apply_dcw
from engine_server.diffusion.rows import StepRows, StepTimes


def clean_estimate(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean latent that state and velocity point to: `x - t * v`."""
    return x - t * v


def mix(share: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`share * a + (1 - share) * b`: exactly a where share is 1, exactly b where it is 0."""
    return share * a + (1.0 - share) * b


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The straight path between clean and noise at level t (rectified flow, Liu et al. 2022)."""
    return t * noise + (1.0 - t) * clean


def hold_masked(x: Tensor, rows: StepRows, at: StepTimes) -> Tensor:
    """Before the forward: put what a mask preserves onto the noised path of its original (as in RePaint, Lugmayr et al. 2022)."""
    return mix(rows.mask * at.mask_strength, x, noised(rows.original, rows.mask_noise, at.now))


def x0_target_weight(rows: StepRows, at: StepTimes) -> Tensor:
    """Weight of the x0 target in this step: the gated curve, or the strength in the second half of the schedule."""
    past_gate = (at.progress - rows.x0_target_gate).clamp(min=0.0)
    gate = past_gate / (1.0 - rows.x0_target_gate).clamp(min=1e-6)
    weight = torch.where(rows.has_x0_curve, rows.x0_target * gate, rows.x0_target_strength * at.is_late)
    return torch.where(rows.has_target, weight, 0.0)


def advance(
    x: Tensor,
    v: Tensor,
    rows: StepRows,
    at: StepTimes,
    fresh_noise: Tensor | None,
    dcw: DcwPlan | None,
    features: Set[str],
) -> Tensor:
    """The state at `at.next`, `[R, T, C]`.

    x: the state, after `hold_masked` where a mask is in use; v: the guided velocity; fresh_noise: `[R, T, C]` standard normal,
    read by SDE rows and by ODE rows with noise, None if there are none.

    The order: velocity scale, clean estimate, mask, x0 target, source blend, solver, wavelet correction, frames that ride the
    source path. On the last step, frames of which nothing was left to the model end exactly on what holds them.
    """
    scaled = v * rows.velocity_scale if "velocity_scale" in features else v
    estimate = clean_estimate(x, scaled, at.now)
    blended, free_share = _blend_estimate(estimate, rows, at, features)
    moved = _integrate(x, scaled, estimate, blended, rows, at, fresh_noise, features)
    if dcw is not None:
        unscaled = estimate if scaled is v else clean_estimate(x, v, at.now)
        moved = apply_dcw(dcw, moved, unscaled, at.now)
    if free_share is not None:
        moved = torch.where(at.is_last & (free_share == 0.0), blended, moved)
    if "late_frames" in features:
        moved = _join_frames(moved, rows, at)
    return moved


def _blend_estimate(
    estimate: Tensor, rows: StepRows, at: StepTimes, features: Set[str]
) -> tuple[Tensor, Tensor | None]:
    """The clean estimate after all that holds it, and the share that the model keeps, None for all of it."""
    share: Tensor | None = None
    if "mask" in features:
        weight = rows.mask * at.mask_strength
        estimate, share = mix(weight, estimate, rows.original), weight
    if "target" in features:
        weight = 1.0 - x0_target_weight(rows, at)
        estimate = mix(weight, estimate, rows.target)
        share = weight if share is None else share * weight
    if "source" in features:
        weight = torch.where(rows.has_source, rows.source_blend, 1.0)
        estimate = mix(weight, estimate, rows.source)
        share = weight if share is None else share * weight
    return estimate, share


def _integrate(
    x: Tensor,
    v: Tensor,
    estimate: Tensor,
    blended: Tensor,
    rows: StepRows,
    at: StepTimes,
    fresh_noise: Tensor | None,
    features: Set[str],
) -> Tensor:
    """The solver, from the blended estimate. With nothing blended the ODE is plain Euler, bit for bit."""
    if blended is estimate:
        moved = x + (at.next - at.now) * v
    else:
        level = torch.where(at.now > 0, at.now, 1.0)
        moved = x + (at.next - at.now) * (v + (estimate - blended) / level)
    if fresh_noise is not None and "ode_noise" in features:
        moved = moved + fresh_noise * rows.ode_noise * at.next
    if fresh_noise is not None and "sde" in features:
        noise = (
            torch.where(rows.renoises_from_mask, rows.mask_noise, fresh_noise) if "mask" in features else fresh_noise
        )
        moved = torch.where(rows.is_sde, noised(blended, noise, at.next), moved)
    return torch.where(at.next <= 0, blended, moved)


def _join_frames(free: Tensor, rows: StepRows, at: StepTimes) -> Tensor:
    """Keep frames on the noised source path until the schedule has come down to their own start level.

    Differential diffusion (Levin and Fried 2023) along time. Full and zero weights are selected, not multiplied, so that a
    constant curve gives a scalar's bits.
    """
    path = noised(rows.source, rows.initial_noise, at.next)
    drop = torch.where(at.now > at.next, at.now - at.next, 1.0)
    joining = path + (rows.start - at.next) / drop * (free - path)
    return torch.where(rows.start >= at.now, free, torch.where(rows.start <= at.next, path, joining))
