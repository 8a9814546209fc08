# SPDX-License-Identifier: Apache-2.0
"""Curves drawn by formula, arithmetic on them, and masks made from them: float32 `[T]`, pure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, finite_curve, resample_half_sample

WAVES = ("sine", "pulse", "square")
OPERATIONS = ("add", "multiply", "min", "max", "lerp")


def constant(value: float, length: int) -> Tensor:
    """`length` frames of one value."""
    return torch.full((_checked_length(length),), _checked("value", value), dtype=torch.float32)


def ramp(start: float, end: float, length: int) -> Tensor:
    """A straight line over `length` frames; both ends are reached, and a single frame is the start."""
    return torch.linspace(_checked("start", start), _checked("end", end), _checked_length(length), dtype=torch.float32)


def wave(kind: str, *, period: int, length: int, amplitude: float = 1.0, offset: float = 0.0) -> Tensor:
    """`amplitude * shape + offset` over `length` frames, `period` frames per cycle.

    sine and square swing between -1 and 1, the square starting high for the half cycle that includes its first frame; pulse
    is a triangle from 0 up to 1 and back. The phase is counted in whole frames, so a long wave does not drift.
    """
    if period < 1:
        raise ValueError(f"period is {period}; at least 1 frame is expected")
    phase = (torch.arange(_checked_length(length)) % period).to(torch.float32) / period
    if kind == "sine":
        shape = torch.sin(2.0 * math.pi * phase)
    elif kind == "pulse":
        shape = torch.where(phase < 0.5, 2.0 * phase, 2.0 * (1.0 - phase))
    elif kind == "square":
        shape = torch.where(phase < 0.5, 1.0, -1.0)
    else:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(WAVES)} is expected")
    return shape * _checked("amplitude", amplitude) + _checked("offset", offset)


def combine(operation: str, a: CurveLike, b: CurveLike = 1.0, *, lerp_t: float = 0.5) -> Tensor:
    """Two curves, or a curve and a number, value by value: `[T]`.

    lerp gives `(1 - lerp_t) a + lerp_t b`. Curves of different lengths are a ValueError unless one of them has length 1.
    """
    first, second = _flat("a", a), _flat("b", b)
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise ValueError(f"a has {len(first)} frames and b has {len(second)}; equal lengths or a constant are expected")
    if operation == "add":
        return first + second
    if operation == "multiply":
        return first * second
    if operation == "min":
        return torch.minimum(first, second)
    if operation == "max":
        return torch.maximum(first, second)
    if operation == "lerp":
        share = _checked("lerp_t", lerp_t)
        return (1.0 - share) * first + share * second
    raise ValueError(f"operation is {operation!r}; one of {', '.join(OPERATIONS)} is expected")


def temporal_mask(value: CurveLike, frames: int) -> Tensor:
    """A mask `[frames]` from a number or a curve of any length: clamped to `[0, 1]`, then stretched to the length."""
    clamped = _flat("mask", value).clamp(0.0, 1.0)
    return resample_half_sample(clamped[None, :, None], _checked_length(frames))[0, :, 0]


def invert_mask(mask: CurveLike) -> Tensor:
    """`1 - mask`: what was generated is preserved, and the reverse."""
    return 1.0 - _flat("mask", mask)


def _flat(name: str, value: CurveLike) -> Tensor:
    curve = finite_curve(value, name=name)
    if curve.shape[2] != 1:
        raise ValueError(f"{name} has shape {tuple(curve.shape)}; one value per frame is expected")
    return curve[0, :, 0]


def _checked(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; a finite number is expected")
    return float(value)


def _checked_length(length: int) -> int:
    if length < 1:
        raise ValueError(f"length is {length}; at least 1 frame is expected")
    return length
