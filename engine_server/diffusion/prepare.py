# SPDX-License-Identifier: Apache-2.0
"""The one place where a slot request is checked, and turned into what the ring stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine_server.diffusion.checks import (
    check_shape,
    checked_gain,
    checked_strengths,
    checked_tensor,
    frame_curve,
    in_range,
)
from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.dcw import plan_dcw
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.guidance import DEFAULT_MOMENTUM, ApgNorm, GuidanceMode, norm_threshold
from engine_server.diffusion.noise import Purpose
from engine_server.diffusion.parameters import PARAMETERS
from engine_server.diffusion.request import SOLVERS, ConditionEntry, LatentMask, SlotRequest
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.schedule import NO_DENOISE, Levels, build_schedule, explicit_schedule, start_level
from engine_server.diffusion.upload import upload

WHOLE_SCHEDULE = (0.0, 1.0)
Rows = dict[str, Tensor | float | bool]
REVISABLE: Mapping[str, Any] = {
    "velocity_scale": 1.0, "source_blend": None, "ode_noise": 0.0,
    "target": None, "x0_target": None, "x0_target_gate": 0.0, "x0_target_strength": 0.0,
    "guidance": None, "apg_momentum": DEFAULT_MOMENTUM, "cfg_rescale": 0.0,
    "channel_gain": None, "dcw": None, "adapters": None,
}  # fmt: skip
"""Fields of a request that may change while it is in flight, and what they are where nothing is said."""


@dataclass(frozen=True, eq=False)
class PreparedCondition:
    """A checked `ConditionEntry`: states float32, mask bool, weight `[T, 1]` or None."""

    states: Tensor
    mask: Tensor
    weight: Tensor | None
    step_range: tuple[float, float]


@dataclass(frozen=True, eq=False)
class PreparedSlot:
    """A request, checked and turned into what the ring stores: latents and conditions on its device, curves on the CPU.

    Latents and curves are copies.
    """

    request: SlotRequest
    """As it was handed in."""
    context: Tensor
    adapters: Tensor | None
    fixed_rows: Rows
    """Values of `StepRows` that are not neutral, without the row axis: those that hold for the whole schedule."""
    step_rows: Rows
    """The same: those that `revise` may change."""
    initial_state: Tensor
    levels: Levels
    steps: int
    mask_strength: Levels
    """Per step."""
    conditions: list[PreparedCondition]
    negatives: list[PreparedCondition]
    guidance_mode: GuidanceMode
    features: frozenset[str]
    """Names of `FEATURES` that this slot uses by itself."""

    @property
    def rows(self) -> Rows:
        """Values of `StepRows` that are not neutral, without the row axis."""
        return {**self.fixed_rows, **self.step_rows}

    def step_noise(self, purpose: Purpose, shape: RingShape) -> Tensor:
        """Fresh standard normal values of every step, `[steps, T, C]`."""
        draw = self.request.noise.draw
        return torch.stack([draw(purpose, i, shape.frames, shape.channels) for i in range(self.steps)])


def prepare(request: SlotRequest, shape: RingShape, device: torch.device | str = "cpu") -> PreparedSlot:
    """Check a request against a ring's shape and bring it to its device. Any thread. Raises ValueError naming the field."""
    given, request = request, _with_checked_tensors(request, shape, device)
    T, C = shape.frames, shape.channels
    if request.solver not in SOLVERS:
        raise ValueError(f"solver is {request.solver!r}; one of {', '.join(SOLVERS)} is expected")
    _check_dcw(request, T)
    if not request.conditions:
        raise ValueError("conditions must hold at least one condition")

    curves = {name: _curve(getattr(request, name), name, shape) for name in _ABSENT}
    levels, start = _schedule(request, curves["denoise"])
    steps = len(levels) - 1 if levels[0] > 0 else 0
    noise = checked_tensor("noise", request.noise.draw(Purpose.INITIAL, 0, T, C), (T, C), device)
    mask_rows, mask_strength = _mask_rows(request, noise, steps, shape)
    mode = _guidance_mode(request)
    fixed: Rows = {**mask_rows, "initial_noise": noise, "start": start, "is_sde": request.solver == "sde"}
    if request.source is not None:
        fixed |= {"source": request.source, "has_source": True}
    _check_source(request, curves, float(levels[0]))
    return PreparedSlot(
        request=given,
        context=request.context,
        adapters=request.adapters,
        fixed_rows=fixed,
        step_rows=_step_rows(request, curves, mode, shape),
        initial_state=_initial_state(request, curves, start, float(np.float32(levels[0])), noise),
        levels=levels,
        steps=steps,
        mask_strength=mask_strength,
        conditions=[_condition(entry, f"conditions[{k}]", shape, device) for k, entry in enumerate(request.conditions)],
        negatives=[_condition(entry, f"negatives[{k}]", shape, device) for k, entry in enumerate(request.negatives)]
        if request.keeps_negatives or mode in (GuidanceMode.FULL, GuidanceMode.INITIALIZE)
        else [],
        guidance_mode=mode,
        features=_features(request, curves, start, levels[0], mode),
    )


def revise(
    slot: PreparedSlot, changes: Mapping[str, Any], shape: RingShape, device: torch.device | str = "cpu"
) -> PreparedSlot:
    """A slot with other values of `REVISABLE` fields: the steps that it still makes are those of a request that has them.

    Guidance can come only where negatives were kept. Any thread. Raises ValueError as `prepare` does, or for a field that
    is not revisable.
    """
    if unknown := sorted(set(changes) - set(REVISABLE)):
        raise ValueError(f"{unknown[0]!r} cannot change in flight; one of {', '.join(REVISABLE)} is expected")
    given = replace(slot.request, **changes)
    request = _with_checked_values(given, shape, device)
    _check_dcw(request, shape.frames)
    curves = {name: _curve(getattr(request, name), name, shape) for name in _ABSENT}
    mode = _guidance_mode(request)
    if not slot.negatives and mode in (GuidanceMode.FULL, GuidanceMode.INITIALIZE):
        mode = GuidanceMode.OFF
    start = slot.fixed_rows["start"]
    assert isinstance(start, Tensor)
    _check_source(request, curves, float(slot.levels[0]))
    return replace(
        slot,
        request=given,
        adapters=request.adapters,
        step_rows=_step_rows(request, curves, mode, shape),
        guidance_mode=mode,
        features=_features(request, curves, start, float(slot.levels[0]), mode),
    )


def _step_rows(request: SlotRequest, curves: Mapping[str, Tensor], mode: GuidanceMode, shape: RingShape) -> Rows:
    rows: Rows = {
        "velocity_scale": curves["velocity_scale"],
        "ode_noise": curves["ode_noise"],
        "x0_target_gate": in_range("x0_target_gate", request.x0_target_gate, 0.0, 1.0),
        "x0_target_strength": curves["x0_target_strength"],
        "has_x0_curve": request.x0_target is not None,
    }
    if request.source is not None:
        rows["source_blend"] = curves["source_blend"]
    if request.target is not None:
        rows |= {"target": request.target, "has_target": True, "x0_target": curves["x0_target"]}
    if request.channel_gain is not None:
        rows["channel_gain"] = request.channel_gain
    if mode is not GuidanceMode.OFF:
        rows |= {
            "guidance": curves["guidance"],
            "has_guidance": True,
            "apg_momentum": curves["apg_momentum"],
            "apg_threshold": norm_threshold(ApgNorm(request.apg_norm), shape.frames),
            "cfg_rescale": curves["cfg_rescale"],
        }
    return rows


def _check_dcw(request: SlotRequest, frames: int) -> None:
    if request.dcw is not None:
        if not isinstance(request.dcw, DcwSettings):
            raise ValueError(f"dcw is a {type(request.dcw).__name__}; DcwSettings are expected")
        plan_dcw([request.dcw], frames)  # raises for a curve of the wrong length


def _with_checked_values(request: SlotRequest, shape: RingShape, device: torch.device | str) -> SlotRequest:
    """The request with copies of the tensors that `revise` may change."""
    latent = (shape.frames, shape.channels)
    return replace(
        request,
        target=None if request.target is None else checked_tensor("target", request.target, latent, device).clone(),
        channel_gain=None if request.channel_gain is None else checked_gain(request.channel_gain, shape),
        adapters=None if request.adapters is None else checked_strengths(request.adapters),
    )


def _with_checked_tensors(request: SlotRequest, shape: RingShape, device: torch.device | str) -> SlotRequest:
    """The request with copies of its latents: it begins now, and is written into a slot later."""
    latent = (shape.frames, shape.channels)

    def copy(name: str, value: Tensor | None, wanted: tuple[int, ...] = latent) -> Tensor | None:
        return None if value is None else checked_tensor(name, value, wanted, device).clone()

    mask = request.mask
    if mask is not None:
        original = checked_tensor("mask.original", mask.original, latent, device).clone()
        mask = replace(mask, original=original, noise=copy("mask.noise", mask.noise))
    return replace(
        _with_checked_values(request, shape, device),
        context=checked_tensor("context", request.context, (shape.frames, 2 * shape.channels), device).clone(),
        source=copy("source", request.source),
        mask=mask,
    )


_ABSENT: dict[str, float] = {
    "denoise": 1.0,
    "velocity_scale": 1.0,
    "source_blend": 1.0,
    "ode_noise": 0.0,
    "initial_noise": 1.0,
    "x0_target": 0.0,
    "x0_target_strength": 0.0,
    "guidance": 1.0,
    "apg_momentum": DEFAULT_MOMENTUM,
    "cfg_rescale": 0.0,
}
"""A request's curves, and the value of one that is not given."""


def _curve(value: CurveLike | None, name: str, shape: RingShape) -> Tensor:
    given, row = _ABSENT[name] if value is None else value, PARAMETERS[name]
    return frame_curve(given, shape.frames, name, row.low, row.high).expand(shape.frames, 1)


def _schedule(request: SlotRequest, denoise: Tensor) -> tuple[Levels, Tensor]:
    """The slot's levels, and the level `[T, 1]` at which each frame starts."""
    steps, shift, compat = request.steps, request.shift, request.compat_denoise
    if steps != int(steps):
        raise ValueError(f"steps is {steps}; a whole number is expected")
    largest = float(denoise.max())
    start = start_level(denoise.numpy().astype(np.float64), steps, shift, compat_denoise=compat)
    if request.timesteps is None or largest <= NO_DENOISE:
        levels = build_schedule(steps, shift, largest, compat_denoise=compat)
    else:
        levels = explicit_schedule(request.timesteps)
        # The given levels replace those of the largest denoise: its frames are free from the first.
        start = np.where(denoise.numpy() >= largest, 1.0, start)
    return levels, torch.from_numpy(start.astype(np.float32))


def _initial_state(
    request: SlotRequest, curves: dict[str, Tensor], start: Tensor, first: float, noise: Tensor
) -> Tensor:
    """The state at the first level, `[T, C]`. Frames that join later begin on the noised source path."""
    clean = request.source if request.source is not None else request.mask.original if request.mask else None
    if clean is None:
        return noise
    path = first * noise + (1.0 - first) * clean
    if request.initial_noise is None:
        return path
    share, is_free = upload(curves["initial_noise"], noise.device), upload(start >= first, noise.device)
    return torch.where(is_free, share * noise + (1.0 - share) * clean, path)


def _mask_rows(
    request: SlotRequest, noise: Tensor, steps: int, shape: RingShape
) -> tuple[dict[str, Tensor | float | bool], Levels]:
    mask = request.mask
    if mask is None:
        return {}, np.ones(max(steps, 1))
    return {
        "mask": frame_curve(mask.mask, shape.frames, "mask.mask", 0.0, 1.0),
        "original": mask.original,
        "mask_noise": noise if mask.noise is None else mask.noise,
        "renoises_from_mask": request.source is None or request.source_blend is None,
    }, _mask_strength(mask, steps)


def _mask_strength(mask: LatentMask, steps: int) -> Levels:
    if mask.strength is None or steps == 0:
        return np.ones(max(steps, 1))
    strength = np.array([float(mask.strength(i, steps)) for i in range(steps)])
    if not np.isfinite(strength).all():
        raise ValueError("mask.strength gives NaN or infinity")
    return strength


def _guidance_mode(request: SlotRequest) -> GuidanceMode:
    if request.guidance_mode not in list(GuidanceMode):
        raise ValueError(f"guidance_mode is {request.guidance_mode!r}; one of {', '.join(GuidanceMode)} is expected")
    if request.apg_norm not in list(ApgNorm):
        raise ValueError(f"apg_norm is {request.apg_norm!r}; one of {', '.join(ApgNorm)} is expected")
    mode = GuidanceMode(request.guidance_mode)
    if request.guidance is None:
        return GuidanceMode.OFF
    if mode in (GuidanceMode.FULL, GuidanceMode.INITIALIZE) and not request.negatives:
        raise ValueError(f"guidance in mode {mode} needs negatives; mode self works without")
    return mode


def _condition(entry: ConditionEntry, name: str, shape: RingShape, device: torch.device | str) -> PreparedCondition:
    states = checked_tensor(f"{name}.states", entry.states, (shape.tokens, shape.width), device)
    check_shape(f"{name}.mask", entry.mask, (shape.tokens,))
    begin, end = entry.step_range or WHOLE_SCHEDULE
    if not 0.0 <= begin <= end <= 1.0:
        raise ValueError(f"{name}.step_range is {entry.step_range}; 0 <= begin <= end <= 1 is expected")
    weight = None
    if entry.weight is not None:
        weight = frame_curve(entry.weight, shape.frames, f"{name}.weight", 0.0)
    return PreparedCondition(states, upload(entry.mask.to(torch.bool), device), weight, (begin, end))


def _check_source(request: SlotRequest, curves: dict[str, Tensor], first: float) -> None:
    has_clean = request.source is not None or request.mask is not None
    if not has_clean and first < 1:
        raise ValueError(f"the schedule starts at {first:g}; below 1 it needs a source (or a mask with its original)")
    if not has_clean and bool((curves["denoise"] < 1).any()):
        raise ValueError("denoise below 1 needs a source (or a mask with its original)")
    if bool((curves["denoise"] < float(curves["denoise"].max())).any()) and request.source is None:
        raise ValueError("denoise as a curve needs a source")
    if request.source is None and bool((curves["source_blend"] < 1).any()):
        raise ValueError("source_blend below 1 needs a source")
    if request.initial_noise is not None and not has_clean:
        raise ValueError("initial_noise needs a source")
    if request.target is None and (request.x0_target is not None or bool(curves["x0_target_strength"].any())):
        raise ValueError("x0_target and x0_target_strength need a target")


def _features(
    request: SlotRequest, curves: dict[str, Tensor], start: Tensor, first: float, mode: GuidanceMode
) -> frozenset[str]:
    used = {
        "velocity_scale": bool((curves["velocity_scale"] != 1).any()),
        "mask": request.mask is not None,
        "target": request.target is not None,
        "source": request.source is not None and bool((curves["source_blend"] != 1).any()),
        "sde": request.solver == "sde",
        "ode_noise": bool(curves["ode_noise"].any()),
        "late_frames": bool((start < first).any()),
        "guidance": mode is not GuidanceMode.OFF,
        "gain": request.channel_gain is not None,
    }
    return frozenset(name for name, is_used in used.items() if is_used)
