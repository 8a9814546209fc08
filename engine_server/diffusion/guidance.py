# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance with adaptive projection (APG, Sadat et al. 2024) and rescaling (Lin et al. 2024).

All norms run along time, for each channel, as in ACE-Step's own guidance. Notation: R rows, T frames, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

NORM_THRESHOLD = 2.5
"""Longest guidance direction along time (L2); longer ones are shortened to it."""
REFERENCE_FRAMES = 1500
"""Length at which the `time_rms` norm equals the `time` norm: 60 s."""
DEFAULT_MOMENTUM = -0.75
_EPSILON = 1e-12


class GuidanceMode(StrEnum):
    """Where the negative velocity comes from."""

    OFF = "off"
    FULL = "full"
    """A forward with the negative conditions at every step."""
    INITIALIZE = "initialize"
    """One such forward at the first step, its result kept for the rest (residual CFG, Kodaira et al. 2023)."""
    SELF = "self"
    """No forward: the slot's initial noise, since v = noise - clean and clean is near 0 at the start."""


class ApgNorm(StrEnum):
    """What the norm threshold is measured against."""

    TIME = "time"
    """The L2 norm over the whole window: guidance weakens as the window grows, as in the base model's guidance."""
    TIME_RMS = "time_rms"
    """The threshold grows with the square root of the length, so that guidance does not depend on it."""


def norm_threshold(norm: ApgNorm, frames: int) -> float:
    """The longest guidance direction of a window of so many frames."""
    return NORM_THRESHOLD if norm is ApgNorm.TIME else NORM_THRESHOLD * (frames / REFERENCE_FRAMES) ** 0.5


@dataclass(frozen=True)
class GuidanceRows:
    """Settings of R rows, each broadcastable against `[R, T, 1]`."""

    scale: Tensor
    """g per frame; 1 leaves the positive velocity as it is."""
    momentum: Tensor
    """Memory of the direction; per frame."""
    rescale: Tensor
    """Share in [0, 1] of the loudness-preserving rescale; per frame."""
    threshold: Tensor
    """`[R, 1, 1]`, see `norm_threshold`."""


def project(v_positive: Tensor, v_negative: Tensor, memory: Tensor, rows: GuidanceRows) -> tuple[Tensor, Tensor]:
    """The guided velocity `[R, T, C]` and the new memory of the direction.

    Keeps only the part of the direction that is orthogonal to the positive velocity along time. The projection runs in
    float64, as the base model's does. Bit for bit diffusers' `normalized_guidance` in float32 on the CPU: the sums run over
    adjacent values, because the order of a sum shows in its last bits, and a reciprocal takes the place of the division.
    """
    memory = (v_positive - v_negative) + rows.momentum * memory
    direction, positive = (latent.transpose(1, 2).contiguous() for latent in (memory, v_positive))
    length = direction.norm(p=2, dim=2, keepdim=True)
    direction = (direction * torch.clamp(length.reciprocal() * rows.threshold, max=1.0)).double()
    unit = torch.nn.functional.normalize(positive.double(), dim=2, eps=_EPSILON)
    orthogonal = direction - (direction * unit).sum(dim=2, keepdim=True) * unit
    across = orthogonal.to(v_positive.dtype).transpose(1, 2).contiguous()  # sums further on depend on the layout, too
    return v_positive + (rows.scale - 1.0) * across, memory


def rescale(v: Tensor, v_positive: Tensor, share: Tensor) -> Tensor:
    """Bring `v` back to the positive velocity's loudness along time, per channel, by `share` in [0, 1]."""
    factor: Tensor = v_positive.norm(p=2, dim=1, keepdim=True) / v.norm(p=2, dim=1, keepdim=True).clamp(min=_EPSILON)
    return share * (factor * v) + (1.0 - share) * v


def guide(v_positive: Tensor, v_negative: Tensor, memory: Tensor, rows: GuidanceRows) -> tuple[Tensor, Tensor]:
    """`project`, then `rescale`: the guided velocity `[R, T, C]` and the new memory."""
    guided, memory = project(v_positive, v_negative, memory, rows)
    return rescale(guided, v_positive, rows.rescale), memory
