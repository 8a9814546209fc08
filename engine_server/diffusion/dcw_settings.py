# SPDX-License-Identifier: Apache-2.0
"""What the wavelet-domain correction is told: bands, strengths, wavelet and faders, checked and comparable."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, finite_curve, resample_half_sample
from engine_server.diffusion.wavelets import Wavelet

MODES = ("low", "high", "double", "pix")


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""Nothing is said: in `DcwSettings.updated` the present value stays, in `Session.stream` the checkpoint decides."""


@dataclass(frozen=True)
class DcwSettings:
    """What is corrected and how strongly. Raises ValueError naming the field; settings with equal fields are equal.

    Curves are kept as numbers or tuples of float32 values, so that nobody can draw on them later.
    """

    enabled: bool = True
    mode: str = "double"
    """low, high or double: the bands of that name; pix: the frames themselves, without a transform and without `t`."""
    scaler: CurveLike = 0.05
    """Number or curve. Stretched to the band; in mode pix its length must be 1 or T."""
    high_scaler: CurveLike = 0.02
    """Mode double: the high band's."""
    wavelet: str = "haar"
    mult_blend: float = 0.0
    """0..1, share of the multiplicative correction `b * (1 + weight * sign(b - b_y))`."""
    mag_phase: float = 0.0
    """0..1, share of the correction of magnitude and phase of the analytic signal."""
    soft_thresh: float = 0.0
    """At least 0; differences shrink towards 0 by so much."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; one of {', '.join(MODES)} is expected")
        Wavelet.named(self.wavelet)
        for name in ("scaler", "high_scaler"):
            object.__setattr__(self, name, _plain_curve(name, getattr(self, name)))
        for name, highest in (("mult_blend", 1.0), ("mag_phase", 1.0), ("soft_thresh", math.inf)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= highest):
                raise ValueError(f"{name} is {value}; a finite number from 0 to {highest:g} is expected")

    @property
    def is_active(self) -> bool:
        """Whether a step is changed at all."""
        high_counts = self.mode == "double" and _is_nonzero(self.high_scaler)
        return self.enabled and (_is_nonzero(self.scaler) or high_counts)

    @property
    def is_advanced(self) -> bool:
        """Whether a band is corrected by more than its plain difference. Mode pix has no bands."""
        return self.mode != "pix" and (self.mult_blend > 0 or self.mag_phase > 0 or self.soft_thresh > 0)

    @property
    def corrected_bands(self) -> tuple[bool, bool]:
        """Low and high."""
        return self.mode in ("low", "double"), self.mode in ("high", "double")

    def updated(self, **changes: Any) -> DcwSettings:
        """These settings with some fields changed: `UNSET` keeps a field, None puts it back to its default."""
        known = [field.name for field in fields(self)]
        if unknown := changes.keys() - set(known):
            raise ValueError(f"{', '.join(sorted(unknown))} unknown; the settings are {', '.join(known)}")
        default = DcwSettings()
        given = {name: value for name, value in changes.items() if value is not UNSET}
        return replace(
            self, **{name: getattr(default, name) if value is None else value for name, value in given.items()}
        )

    def band_weights(self, length: int) -> Tensor:
        """`[1, 2, 1 | K, 1]`, low before high and before the factors of `t`; zeros in a band that is not corrected."""
        low_counts, high_counts = self.corrected_bands
        high_scaler = self.high_scaler if self.mode == "double" else self.scaler
        low = _stretched(self.scaler, length) if low_counts else torch.zeros(1, 1, 1)
        high = _stretched(high_scaler, length) if high_counts else torch.zeros(1, 1, 1)
        longest = max(low.shape[1], high.shape[1])
        return torch.stack([low.expand(1, longest, 1), high.expand(1, longest, 1)], dim=1)


def _stretched(value: CurveLike, length: int) -> Tensor:
    """`[1, 1 | length, 1]`: a number stays that number."""
    curve = finite_curve(value, name="scaler")
    return curve if curve.shape[1] == 1 else resample_half_sample(curve, length)


def _plain_curve(name: str, value: CurveLike) -> float | tuple[float, ...]:
    curve = finite_curve(value, name=name)
    if curve.shape[2] != 1:
        raise ValueError(f"{name} has shape {tuple(curve.shape)}; one value per frame is expected")
    if isinstance(value, int | float):
        return float(value)
    values = tuple(curve.flatten().tolist())
    return values if len(values) > 1 else values[0]


def _is_nonzero(value: CurveLike) -> bool:
    return any(value) if isinstance(value, tuple) else bool(value)
