# SPDX-License-Identifier: Apache-2.0
"""Flow-matching noise schedules. A level `t` is the share of noise: `x_t = (1 - t) * clean + t * noise`.

Built in float64 on the host; callers store float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_STEPS = 50
NO_DENOISE = 1e-6
"""At or below this, a slot returns its source and makes no step."""

Levels = NDArray[np.float64]


def shifted(u: Levels | float, shift: float) -> Levels:
    """Bend plain levels towards the noisy end (Esser et al. 2024, eq. 23); `shift` 1 changes nothing."""
    level = np.asarray(u, dtype=np.float64)
    if shift == 1.0:
        return level
    return shift * level / (1.0 + (shift - 1.0) * level)


def plain_start(denoise: Levels | float, steps: int, *, compat_denoise: bool = False) -> Levels:
    """The unshifted level from which a frame with this `denoise` starts; elementwise.

    `compat_denoise` gives the reference's staircase `steps / floor(steps / denoise)`, else the level is `denoise` itself.
    """
    wanted = np.asarray(denoise, dtype=np.float64)
    if compat_denoise:
        safe = np.maximum(wanted, NO_DENOISE)
        start = steps / np.floor(steps / safe)
    else:
        start = wanted
    return np.where(wanted <= NO_DENOISE, 0.0, np.where(wanted >= 1.0, 1.0, start))


def start_level(denoise: Levels | float, steps: int, shift: float, *, compat_denoise: bool = False) -> Levels:
    """The level from which a frame with this `denoise` starts, shifted; elementwise."""
    return shifted(plain_start(denoise, steps, compat_denoise=compat_denoise), shift)


def build_schedule(steps: int, shift: float, denoise: float, *, compat_denoise: bool = False) -> Levels:
    """`steps + 1` levels from `start_level(denoise)` down to exactly 0, or `[0, 0]` where there is nothing to denoise.

    Raises ValueError for `steps` outside 1..50, a `shift` that is not positive and finite, or a `denoise` that is NaN.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}; 1 to {MAX_STEPS} are allowed")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift is {shift}; it must be positive and finite")
    if math.isnan(denoise):
        raise ValueError("denoise is NaN")
    start = float(plain_start(denoise, steps, compat_denoise=compat_denoise))
    if start == 0.0:
        return np.zeros(2)
    return shifted(start * (1.0 - np.arange(steps + 1) / steps), shift)


def explicit_schedule(timesteps: Sequence[float]) -> Levels:
    """A schedule given as its levels: strictly decreasing, within [0, 1]; a final 0 is appended when it is absent.

    Raises ValueError naming what is wrong.
    """
    levels = np.asarray(timesteps, dtype=np.float64)
    if levels.ndim != 1 or levels.size == 0 or not np.isfinite(levels).all():
        raise ValueError("timesteps must be a list of finite levels")
    if levels[-1] != 0.0:
        levels = np.append(levels, 0.0)
    if not 2 <= levels.size <= MAX_STEPS + 1:
        raise ValueError(f"timesteps make {levels.size - 1} steps; 1 to {MAX_STEPS} are allowed")
    if levels[0] > 1.0 or (np.diff(levels) >= 0).any():
        raise ValueError("timesteps must lie within [0, 1] and decrease strictly")
    return levels
