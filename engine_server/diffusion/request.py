# SPDX-License-Identifier: Apache-2.0
"""A slot request: everything that one generation asks for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.guidance import DEFAULT_MOMENTUM, ApgNorm, GuidanceMode
from engine_server.diffusion.noise import NoiseSource

SOLVERS = ("ode", "sde")


@dataclass(frozen=True, eq=False)
class ConditionEntry:
    """One prompt of a slot: states `[L, E]`, mask `[L]` bool, and its part in a blend of several.

    weight: scalar or curve, not negative, None being 1; weights are normalised per frame, and a slot's only active condition
    counts whole. step_range: shares (a, b) of the schedule between which it is active, half open; None is always.
    """

    states: Tensor
    mask: Tensor
    weight: CurveLike | None = None
    step_range: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class LatentMask:
    """Inpainting: mask 1 generates, 0 preserves `original` `[T, C]`; soft values mix.

    strength: factor on the mask as a function of (step, steps), None being 1. noise: `[T, C]` that keeps preserved frames noisy
    on the way; None takes the slot's own initial noise.
    """

    mask: CurveLike
    original: Tensor
    strength: Callable[[int, int], float] | None = None
    noise: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SlotRequest:
    """One generation. Every curve may be a scalar or T values; latents and conditions lie on any device, best on the ring's;
    defaults are neutral or absent.

    request_id names the request in its `Completion`. context: `[T, 2C]`. conditions: the primary first. source, target:
    `[T, C]` or None.

    The start: `denoise` per frame (needs a source below 1), or `timesteps`, levels given explicitly. `initial_noise` w starts
    from `w * noise + (1 - w) * source` whatever the first level is. `compat_denoise` selects the reference's staircase start.

    The clean estimate: `source_blend` c keeps `c` of it against the source; `x0_target` is the target's weight, growing from the
    gate to the last step; without it, `x0_target_strength` is the weight in the second half of the schedule.

    Guidance acts when `guidance` is given, the mode is not off, and there are negatives (the mode `self` needs none).
    keeps_negatives: the negatives are encoded although no guidance is given, so that `Ring.revise` can give it later.

    dcw None takes the ring's. adapters: strengths `[A]` of the decoder's adapters. origin_frame: where the window begins in its
    piece; carried along.
    """

    request_id: Hashable
    noise: NoiseSource
    context: Tensor
    conditions: Sequence[ConditionEntry]
    negatives: Sequence[ConditionEntry] = ()
    source: Tensor | None = None
    target: Tensor | None = None
    mask: LatentMask | None = None
    denoise: CurveLike = 1.0
    steps: int = 8
    shift: float = 3.0
    timesteps: Sequence[float] | None = None
    solver: str = "ode"
    initial_noise: CurveLike | None = None
    velocity_scale: CurveLike = 1.0
    source_blend: CurveLike | None = None
    ode_noise: CurveLike = 0.0
    x0_target: CurveLike | None = None
    x0_target_gate: float = 0.0
    x0_target_strength: CurveLike = 0.0
    guidance: CurveLike | None = None
    guidance_mode: str = GuidanceMode.FULL
    keeps_negatives: bool = False
    apg_momentum: CurveLike = DEFAULT_MOMENTUM
    apg_norm: str = ApgNorm.TIME
    cfg_rescale: CurveLike = 0.0
    channel_gain: Tensor | None = None
    dcw: DcwSettings | None = None
    adapters: Tensor | None = None
    origin_frame: int = 0
    compat_denoise: bool = False
