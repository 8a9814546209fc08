# SPDX-License-Identifier: Apache-2.0
"""What a step reads besides state and velocity, as a struct of arrays: one row per slot, neutral where a feature is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.upload import upload

FEATURES = ("velocity_scale", "mask", "target", "source", "sde", "ode_noise", "late_frames", "guidance", "gain")
"""Parts of a step that are left out of a tick when no slot uses them. A row that carries neutral values comes out the same."""


@dataclass(frozen=True)
class RingShape:
    """Sizes that a ring is built for: D slots, T frames, C channels, L condition tokens of width E."""

    depth: int
    frames: int
    channels: int
    tokens: int
    width: int


@dataclass(frozen=True)
class _Field:
    """Shape of a row's entry, and its value where the feature is absent."""

    kind: str
    neutral: float | bool

    def size(self, shape: RingShape) -> tuple[int, int]:
        """Of one row."""
        return {"latent": (shape.frames, shape.channels), "curve": (shape.frames, 1)}.get(self.kind, (1, 1))


_Latent = Annotated[Tensor, _Field("latent", 0.0)]
_Flag = Annotated[Tensor, _Field("flag", False)]
_Zero = Annotated[Tensor, _Field("curve", 0.0)]
_One = Annotated[Tensor, _Field("curve", 1.0)]
_Number = Annotated[Tensor, _Field("number", 0.0)]


@dataclass(frozen=True)
class StepRows:
    """R rows. Latents `[R, T, C]`, curves `[R, T, 1]`, numbers `[R, 1, 1]`, flags `[R, 1, 1]` bool, all float32 otherwise."""

    source: _Latent
    has_source: _Flag
    initial_noise: _Latent
    start: Annotated[Tensor, _Field("curve", 2.0)]
    """Per-frame start level (shifted denoise); at or above the schedule's first level for a frame that is free throughout."""
    is_sde: _Flag
    velocity_scale: _One
    source_blend: _One
    """c of `clean <- c * clean + (1 - c) * source`; acts in rows with a source."""
    ode_noise: _Zero
    mask: _One
    original: _Latent
    mask_noise: _Latent
    renoises_from_mask: _Flag
    """SDE steps without a source blend use the mask's noise instead of fresh values."""
    target: _Latent
    has_target: _Flag
    x0_target: _Zero
    has_x0_curve: _Flag
    """Whether `x0_target` with its gate takes the place of `x0_target_strength`."""
    x0_target_gate: _Number
    x0_target_strength: _Zero
    guidance: _One
    has_guidance: _Flag
    apg_momentum: _Zero
    apg_threshold: Annotated[Tensor, _Field("number", 1.0)]
    cfg_rescale: _Zero
    channel_gain: Annotated[Tensor, _Field("latent", 1.0)]

    @classmethod
    def neutral(cls, rows: int, shape: RingShape, device: torch.device | str = "cpu") -> StepRows:
        """Rows that use no feature."""
        return cls(
            **{
                name: torch.full(
                    (rows, *entry.size(shape)),
                    entry.neutral,
                    dtype=torch.bool if entry.kind == "flag" else torch.float32,
                    device=device,
                )
                for name, entry in _LAYOUT.items()
            }
        )

    def write(self, row: int, values: Mapping[str, Tensor | float | bool]) -> None:
        """Set a row: the values given, broadcast, and neutral values for all others."""
        for name, entry in _LAYOUT.items():
            rows, value = getattr(self, name), values.get(name, entry.neutral)
            rows[row] = upload(value, rows.device) if isinstance(value, Tensor) else value

    def resized(self, rows: int, shape: RingShape) -> StepRows:
        """The first `rows` rows, or all and neutral ones after them."""
        extra = rows - len(self.start)
        if extra <= 0:
            return StepRows(**{name: getattr(self, name)[:rows].clone() for name in _LAYOUT})
        more = StepRows.neutral(extra, shape, self.start.device)
        return StepRows(**{name: torch.cat([getattr(self, name), getattr(more, name)]) for name in _LAYOUT})

    def override(self, shared: Mapping[str, Tensor]) -> StepRows:
        """These rows with shared values in the place of their own, each broadcastable against the field."""
        return replace(self, **shared) if shared else self


_LAYOUT: Mapping[str, _Field] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(StepRows, include_extras=True).items()
}


@dataclass(frozen=True)
class StepTimes:
    """Where each row stands in its schedule; all `[R, 1, 1]` float32 but `is_last`, which is bool."""

    now: Tensor
    """Level before the step."""
    next: Tensor
    """Level after it; equal to `now` in an idle row, whose result is meaningless and finite."""
    progress: Tensor
    """Step index over the last step's index, 0 to 1."""
    is_late: Tensor
    """1 in the second half of the schedule, else 0."""
    mask_strength: Tensor
    is_last: Tensor

    @classmethod
    def from_table(cls, table: NDArray[np.float32], device: torch.device | str = "cpu") -> StepTimes:
        """From the host's table `[R, 6]`, columns in the order of the fields, uploaded in one copy."""
        columns = upload(table, device).T[..., None, None]
        return cls(columns[0], columns[1], columns[2], columns[3], columns[4], columns[5] > 0)
