# SPDX-License-Identifier: Apache-2.0
"""Curves: a value per frame, canonical shape `[1, T, 1]` float32; length 1 is a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CurveLike = float | int | bool | np.number | Sequence[float] | NDArray[np.floating] | Tensor


def curve_shape(value: CurveLike) -> Tensor:
    """A number or array in the layout of a curve: `[]` as `[1, 1, 1]`, `[T]` as `[1, T, 1]`, `[B, T]` as `[B, T, 1]`.

    Three dimensions pass unchanged, so a `[1, T, C]` tensor acts per channel. Tensors and arrays keep their dtype; numbers
    and lists become float32. Values and lengths are not looked at. Raises ValueError for more dimensions.
    """
    keeps_dtype = isinstance(value, Tensor | np.ndarray)
    curve = torch.as_tensor(value) if keeps_dtype else torch.as_tensor(value, dtype=torch.float32)
    if curve.ndim == 0:
        return curve.reshape(1, 1, 1)
    if curve.ndim == 1:
        return curve[None, :, None]
    if curve.ndim == 2:
        return curve[..., None]
    if curve.ndim == 3:
        return curve
    raise ValueError(f"a curve has at most 3 dimensions, not {curve.ndim}")


def finite_curve(value: CurveLike, *, name: str, lo: float | None = None, hi: float | None = None) -> Tensor:
    """A number or curve of any length as a contiguous float32 tensor `[1, n, C]` on the CPU, C usually 1.

    Raises ValueError naming the parameter for anything that is not one curve (see `curve_shape`), for NaN or infinity, and
    for a value outside `[lo, hi]`. Any thread; never call it inside a tick.
    """
    try:
        curve = curve_shape(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is not a curve: {error}") from error
    if curve.is_complex():
        raise ValueError(f"{name} is complex; a curve holds real numbers")
    curve = curve.to("cpu", torch.float32)
    if curve.shape[0] != 1 or curve.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(curve.shape)}; one curve with at least one value is expected")
    if not torch.isfinite(curve).all():
        raise ValueError(f"{name} holds NaN or infinity")
    if (lo is not None and bool((curve < lo).any())) or (hi is not None and bool((curve > hi).any())):
        raise ValueError(f"{name} leaves the range {lo} to {hi}")
    return curve.contiguous()


def canonical_curve(
    value: CurveLike,
    frames: int,
    *,
    name: str,
    lo: float | None = None,
    hi: float | None = None,
    resample: bool = False,
) -> Tensor:
    """A number or curve for so many frames: contiguous float32 `[1, T, C]` on the CPU, T being 1 or `frames` and C usually 1.

    A curve of another length is stretched with aligned ends when `resample` is set (drawn automation: its first and last
    points are the song's start and end), and is a ValueError otherwise. Further errors and threads as in `finite_curve`.
    """
    curve = finite_curve(value, name=name, lo=lo, hi=hi)
    if curve.shape[1] in (1, frames):
        return curve
    if not resample:
        raise ValueError(f"{name} has {curve.shape[1]} frames; 1 or {frames} are expected")
    return resample_aligned(curve, frames)


def resample_half_sample(curve: Tensor, frames: int) -> Tensor:
    """`[B, n, C]` as `[B, frames, C]`, linear between the centres of equal cells; the ends are held.

    Output j reads position `(j + 1/2) n / frames - 1/2`. A constant keeps its bits, and so does a curve of that length.
    """
    given = curve.shape[1]
    positions = (torch.arange(frames, dtype=torch.float64) + 0.5) * given / frames - 0.5
    return _interpolate(curve, positions.clamp(0, given - 1))


def resample_aligned(curve: Tensor, frames: int) -> Tensor:
    """`[B, n, C]` as `[B, frames, C]`, linear, the first and last values on the first and last frames.

    Output j reads position `j (n - 1) / (frames - 1)`. A constant keeps its bits, and so does a curve of that length.
    """
    positions = torch.arange(frames, dtype=torch.float64) * (curve.shape[1] - 1) / max(frames - 1, 1)
    return _interpolate(curve, positions)


def _interpolate(curve: Tensor, positions: Tensor) -> Tensor:
    """Linear reading of dimension 1 at float64 `positions` within `0 .. n - 1`.

    Positions are float64 because float32 would misplace the late frames of a long song.
    """
    lower = positions.floor()
    share = (positions - lower).to(curve).view(1, -1, 1)
    lower_index = lower.long().to(curve.device)
    below, above = curve[:, lower_index], curve[:, (lower_index + 1).clamp(max=curve.shape[1] - 1)]
    return below + share * (above - below)
