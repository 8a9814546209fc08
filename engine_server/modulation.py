# SPDX-License-Identifier: Apache-2.0
"""The musical words of the Session API, and the one place where they become fields of a slot request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.guidance import ApgNorm, GuidanceMode
from engine_server.diffusion.noise import NoiseSource
from engine_server.diffusion.request import ConditionEntry, LatentMask, SlotRequest
from engine_server.model.conditioning import pad_condition
from engine_server.types import Conditioning, Entry, Latent, NoiseMask, curve_part, held

SHARED_NAMES: Mapping[str, str] = {
    "ode_noise_curve": "ode_noise",
    "x0_target_curve": "x0_target",
    "guidance_curve": "guidance",
    "cfg_rescale_curve": "cfg_rescale",
}
"""Session names of step-time controls that the sampler calls otherwise."""


@dataclass(frozen=True, eq=False)
class Modulation:
    """What shapes one generation beyond source and prompt. Every curve is a number or values over the piece.

    A curve of another length than the piece's is stretched to it, first value on the first frame, last on the last. None leaves a
    feature out. Raises ValueError for unknown choices, and for two names of one control.
    """

    denoise: CurveLike = 1.0
    """How far each frame travels from the source."""
    velocity_scale: CurveLike = 1.0
    sde_denoise_curve: CurveLike | None = None
    """Freedom against the source per frame, with the SDE solver."""
    source_blend: CurveLike | None = None
    """The same with either solver; not beside `sde_denoise_curve`."""
    ode_noise_curve: CurveLike = 0.0
    """Fresh noise after each step of the ODE solver; the SDE solver has its own."""
    initial_noise_curve: CurveLike | None = None
    x0_target: Latent | None = None
    x0_target_curve: CurveLike | None = None
    x0_target_strength: CurveLike = 0.0
    x0_target_gate: float = 0.0
    guidance_curve: CurveLike | None = None
    negative: Conditioning | None = None
    """What guidance moves away from; None is the checkpoint's learned null condition."""
    rcfg_mode: str = "full"
    """full, initialize, self, or off."""
    cfg_rescale: CurveLike = 0.0
    apg_momentum: CurveLike = -0.75
    apg_norm: str = "time"
    noise_mask: NoiseMask | None = None
    chunk_mask: CurveLike | None = None
    """What the decoder is told of each frame: 0, it is kept; anything else, it is to be made, as all are without a mask."""
    channel_gain: Tensor | None = None
    """`[1 or T, C]`, or as `channel_gain` of `engine_server.diffusion.gain` makes it, `[1, 1 or T, C]`."""
    dcw: DcwSettings | None = None
    """Wavelet correction of this generation; None takes the stream's."""
    timesteps: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("rcfg_mode", GuidanceMode), ("apg_norm", ApgNorm)):
            if getattr(self, name) not in list(choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}; one of {', '.join(choices)} is expected")
        if self.sde_denoise_curve is not None and self.source_blend is not None:
            raise ValueError("sde_denoise_curve and source_blend are one control; only one of them is expected")

    def slot_request(
        self,
        *,
        request_id: int,
        noise: NoiseSource,
        conditioning: Conditioning,
        null: Conditioning,
        context: Tensor,
        source: Latent | None,
        steps: int,
        shift: float,
        method: str,
        tokens: int,
        adapters: Tensor | None,
        origin_frame: int = 0,
    ) -> SlotRequest:
        """The request for a piece with context `[T, 2C]`. tokens: length that conditions are padded to, or a multiple.

        Raises ValueError naming the field that does not fit.
        """
        frames = len(context)

        def fit(name: str, value: CurveLike) -> Tensor:
            low, high = _RANGES.get(name, (None, None))
            return canonical_curve(value, frames, name=name, lo=low, hi=high, resample=True)

        def drawn(name: str) -> Tensor | None:
            value = getattr(self, name)
            return None if value is None else fit(name, value)

        has_guidance = self.guidance_curve is not None and self.rcfg_mode != "off"
        negative = (self.negative or null) if has_guidance and self.rcfg_mode != "self" else None
        padded = _padded([conditioning, *([negative] if negative else [])], tokens)
        if self.sde_denoise_curve is not None:
            method = "sde"
        blend = "sde_denoise_curve" if self.sde_denoise_curve is not None else "source_blend"
        return SlotRequest(
            request_id=request_id,
            noise=noise,
            context=self._masked(context),
            conditions=_entries(padded[0], frames),
            negatives=_entries(padded[1], frames) if negative else [],
            source=None if source is None else source.frames,
            target=None if self.x0_target is None else self.x0_target.frames,
            mask=self._mask(frames),
            denoise=fit("denoise", self.denoise),
            steps=steps,
            shift=shift,
            timesteps=self.timesteps,
            solver=method,
            initial_noise=drawn("initial_noise_curve"),
            velocity_scale=fit("velocity_scale", self.velocity_scale),
            source_blend=drawn(blend),
            ode_noise=fit("ode_noise_curve", self.ode_noise_curve),
            x0_target=drawn("x0_target_curve"),
            x0_target_gate=self.x0_target_gate,
            x0_target_strength=fit("x0_target_strength", self.x0_target_strength),
            guidance=drawn("guidance_curve"),
            guidance_mode=self.rcfg_mode,
            apg_momentum=fit("apg_momentum", self.apg_momentum),
            apg_norm=self.apg_norm,
            cfg_rescale=fit("cfg_rescale", self.cfg_rescale),
            channel_gain=self.channel_gain,
            dcw=self.dcw,
            adapters=adapters,
            origin_frame=origin_frame,
        )

    def within(self, first: int, frames: int, total: int) -> Modulation:
        """The part that belongs to a window of a longer piece: curves and latents cut to `[first, first + frames)`.

        Raises ValueError for a latent or a gain of another length than the piece.
        """

        def cut(name: str, value: Any) -> Any:
            if isinstance(value, Latent):
                _check_length(name, len(value), total)
                return value.part(first, frames)
            if isinstance(value, NoiseMask):
                return NoiseMask(cut("noise_mask", value.mask), cut("noise_mask.original", value.original))
            if isinstance(value, Conditioning):
                return value.part(first, frames, total)
            if name == "channel_gain":
                if value.shape[-2] == 1:
                    return value
                _check_length(name, value.shape[-2], total)
                return held(value.reshape(value.shape[-2:]), first, frames)
            return curve_part(value, first, frames, total, name)

        drawn = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PLAIN}
        return replace(self, **{name: cut(name, value) for name, value in drawn.items() if value is not None})

    def _masked(self, context: Tensor) -> Tensor:
        if self.chunk_mask is None:
            return context
        mask = canonical_curve(self.chunk_mask, len(context), name="chunk_mask", resample=True)[0] != 0
        if mask.shape[1] != 1:
            raise ValueError(f"chunk_mask has {mask.shape[1]} channels; one is expected")
        structure, ones = context.chunk(2, dim=-1)
        return torch.cat([structure, mask.to(context).expand_as(ones)], dim=-1)

    def _mask(self, frames: int) -> LatentMask | None:
        if self.noise_mask is None:
            return None
        mask = canonical_curve(self.noise_mask.mask, frames, name="noise_mask", resample=True)
        return LatentMask(mask, self.noise_mask.original.frames)


_PLAIN = ("x0_target_gate", "rcfg_mode", "apg_norm", "dcw", "timesteps")
"""Fields of `Modulation` that are the same in every window."""
_RANGES: Mapping[str, tuple[float, float]] = {"sde_denoise_curve": (0.0, 1.0)}
"""Ranges that the sampler would report under a name of its own."""


def _check_length(name: str, frames: int, total: int) -> None:
    if frames != total:
        raise ValueError(f"{name} has {frames} frames; the {total} of the piece are expected")


def _entries(conditioning: Conditioning, frames: int) -> list[ConditionEntry]:
    return [
        ConditionEntry(
            entry.condition.states[0],
            entry.condition.mask[0],
            None
            if entry.weight is None
            else canonical_curve(entry.weight, frames, name="weight of a prompt", resample=True),
            entry.step_range,
        )
        for entry in conditioning.entries
    ]


def _padded(conditionings: Sequence[Conditioning], tokens: int) -> list[Conditioning]:
    """All prompts at one length: the configured one, or the multiple that the longest needs."""

    def pad(entry: Entry, length: int) -> Entry:
        return replace(entry, condition=pad_condition(entry.condition, length))

    padded = [Conditioning(tuple(pad(entry, tokens) for entry in each.entries)) for each in conditionings]
    longest = max(entry.condition.mask.shape[1] for each in padded for entry in each.entries)
    return [Conditioning(tuple(pad(entry, longest) for entry in each.entries)) for each in padded]
