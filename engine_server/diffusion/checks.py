# SPDX-License-Identifier: Apache-2.0
"""Values from outside, as what the sampler computes with: float32, of the right shape, finite; curves on the CPU.

Everything here runs on the caller's thread, never inside a tick, and raises ValueError naming the parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.upload import upload


def frame_curve(
    value: CurveLike, frames: int, name: str, low: float | None = None, high: float | None = None
) -> Tensor:
    """`canonical_curve` as `[1 or T, 1]`, its own copy: a value per frame, the same for all channels."""
    curve = canonical_curve(value, frames, name=name, lo=low, hi=high)[0]
    if curve.shape[1] != 1:
        raise ValueError(f"{name} has {curve.shape[1]} values per frame; 1 is expected")
    return curve.clone()


def checked_tensor(name: str, value: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """A tensor of exactly this shape, on a device; the caller's own if it is float32 and there already.

    It is checked where it lies: a latent that a GPU has made goes on there, and one answer comes back to the host.
    """
    check_shape(name, value, shape)
    if value.is_complex():
        raise ValueError(f"{name} is complex; real numbers are expected")
    real = value.detach().to(torch.float32)
    if not bool(torch.isfinite(real).all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return upload(real, device)


def checked_gain(value: object, shape: RingShape) -> Tensor:
    """A channel gain `[1 or T, C]`, its own copy, of one that may have a batch axis of 1."""
    gain = torch.as_tensor(value, dtype=torch.float32)
    if gain.ndim == 3 and gain.shape[0] == 1:
        gain = gain[0]
    if gain.ndim != 2 or gain.shape[0] not in (1, shape.frames) or gain.shape[1] != shape.channels:
        raise ValueError(
            f"channel_gain has shape {tuple(gain.shape)}; (1 or {shape.frames}, {shape.channels}) is expected"
        )
    return checked_tensor("channel_gain", gain, tuple(gain.shape)).clone()


def checked_strengths(value: object) -> Tensor:
    """Adapter strengths `[A]`, their own copy."""
    strengths = torch.as_tensor(value, dtype=torch.float32)
    if strengths.ndim != 1:
        raise ValueError(f"adapters has shape {tuple(strengths.shape)}; a strength for each adapter is expected")
    return checked_tensor("adapters", strengths, tuple(strengths.shape)).clone()


def check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless the value is a tensor of exactly this shape."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; a tensor is expected")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; {shape} is expected")


def in_range(name: str, value: float, low: float, high: float) -> float:
    """A number within a closed range; NaN is in none."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; {low:g} to {high:g} is allowed")
    return float(value)
