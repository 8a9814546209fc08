# SPDX-License-Identifier: Apache-2.0
"""Curves: a value per frame, canonical shape `[1, T, 1]` float32; length 1 is a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CurveLike = float | int | bool | Sequence[float] | NDArray[np.floating] | Tensor


def canonical_curve(
    value: CurveLike,
    frames: int,
    *,
    name: str,
    lo: float | None = None,
    hi: float | None = None,
    resample: bool = False,
) -> Tensor:
    """A scalar or curve as a contiguous float32 tensor `[1, T, C]`, T being 1 or `frames` and C usually 1.

    Accepts numbers, lists, numpy arrays and tensors of shape `[]`, `[T]`, `[1, T]` or `[1, T, C]`. Raises ValueError
    naming the parameter for a wrong length, more dimensions, NaN or infinity, or a value outside `[lo, hi]`. Any thread;
    never call it inside a tick.
    """
    curve = torch.as_tensor(value).to(torch.float32)
    if curve.ndim == 0:
        curve = curve.reshape(1, 1, 1)
    elif curve.ndim == 1:
        curve = curve[None, :, None]
    elif curve.ndim == 2:
        curve = curve[..., None]
    elif curve.ndim != 3:
        raise ValueError(f"{name} has {curve.ndim} dimensions; a curve has at most 3")
    if curve.shape[0] != 1 or curve.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(curve.shape)}; one curve with at least one value is expected")
    if curve.shape[1] not in (1, frames):
        raise ValueError(f"{name} has {curve.shape[1]} frames; 1 or {frames} are expected")
    if not torch.isfinite(curve).all():
        raise ValueError(f"{name} holds NaN or infinity")
    if (lo is not None and bool((curve < lo).any())) or (hi is not None and bool((curve > hi).any())):
        raise ValueError(f"{name} leaves the range {lo} to {hi}")
    return curve.contiguous()
