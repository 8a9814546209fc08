# SPDX-License-Identifier: Apache-2.0
"""Step-time control: values shared by all slots, read as one immutable snapshot per tick.

A shared value takes the place of every slot's own, in flight or yet to come, until it is cleared. Two are otherwise: a wavelet
correction and LoRA strengths of a slot's own stay its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine_server.diffusion.checks import checked_gain, checked_strengths, frame_curve
from engine_server.diffusion.curves import CurveLike, resample_aligned
from engine_server.diffusion.dcw import plan_dcw
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import Purpose
from engine_server.diffusion.parameters import PARAMETERS, STEP_TIME
from engine_server.diffusion.prepare import PreparedSlot
from engine_server.diffusion.request import SOLVERS
from engine_server.diffusion.rows import RingShape, StepRows
from engine_server.diffusion.upload import upload

_FRAME_CURVES = tuple(
    name for name in STEP_TIME if PARAMETERS[name].kind == "curve" and name not in ("temporal_weights", "adapters")
)

SharedValue = CurveLike | Sequence[CurveLike] | DcwSettings | str


@dataclass(frozen=True)
class Snapshot:
    """All shared values at one moment; absent ones are None or missing. Immutable, and so are the tensors in it."""

    version: int = 0
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, `[1, 1 or T, 1]`."""
    channel_gain: Tensor | None = None
    """`[1, 1 or T, C]`."""
    temporal_weights: tuple[Tensor, ...] | None = None
    dcw: DcwSettings | None = None
    solver: str | None = None
    adapters: Tensor | None = None
    """`[A]`, on the host."""

    def features(self) -> frozenset[str]:
        """Features that the shared values may bring to slots which do not use them by themselves."""
        curves = self.curves
        used = {
            "velocity_scale": "velocity_scale" in curves,
            "source": "source_blend" in curves or "sde_denoise_curve" in curves,
            "sde": self.solver == "sde" or "sde_denoise_curve" in curves,
            "ode_noise": "ode_noise" in curves,
            "gain": self.channel_gain is not None,
        }
        return frozenset(name for name, is_used in used.items() if is_used)

    def apply(self, rows: StepRows) -> StepRows:
        """The rows with the shared values in the place of their own."""
        shared = dict(self.curves)
        sde_curve = shared.pop("sde_denoise_curve", None)
        if self.solver is not None:
            shared["is_sde"] = torch.full_like(rows.is_sde[:1], self.solver == "sde")
        if sde_curve is not None:
            shared["source_blend"] = sde_curve
            shared["is_sde"] = rows.has_source | shared.get("is_sde", rows.is_sde)
        if "source_blend" in shared:
            shared["renoises_from_mask"] = rows.renoises_from_mask & ~rows.has_source
        if "x0_target" in shared:
            shared["has_x0_curve"] = torch.ones_like(rows.has_x0_curve[:1])
        if self.channel_gain is not None:
            shared["channel_gain"] = self.channel_gain
        return rows.override(shared)

    def strengths_of(self, slot: PreparedSlot) -> Tensor | None:
        """Adapter strengths of a slot, `[A]` on the host: its own, or the shared ones."""
        return self.adapters if slot.adapters is None else slot.adapters

    def dcw_of(self, slot: PreparedSlot | None) -> DcwSettings | None:
        """Wavelet correction of a slot: its own, or the shared one."""
        return self.dcw if slot is None or slot.request.dcw is None else slot.request.dcw

    def noise_of(self, slot: PreparedSlot) -> Purpose | None:
        """What a slot's steps need fresh noise for."""
        solver = self.solver or slot.request.solver
        if "sde_denoise_curve" in self.curves and slot.request.source is not None:
            solver = "sde"
        if solver == "sde":
            return Purpose.SDE
        return Purpose.ODE if "ode_noise" in slot.features or "ode_noise" in self.curves else None

    def resampled(self, frames: int) -> Snapshot:
        """For windows of another length: drawn curves are stretched, first value on the first frame, last on the last."""

        def fit(curve: Tensor) -> Tensor:
            return curve if curve.shape[1] in (1, frames) else resample_aligned(curve, frames)

        return replace(
            self,
            curves={name: fit(curve) for name, curve in self.curves.items()},
            channel_gain=None if self.channel_gain is None else fit(self.channel_gain),
            temporal_weights=None if self.temporal_weights is None else tuple(map(fit, self.temporal_weights)),
            dcw=None if self.dcw is None else _fit_dcw(self.dcw, frames),
        )


def _fit_dcw(settings: DcwSettings, frames: int) -> DcwSettings:
    """A correction of frames (mode pix) wants its curve as long as the window; the wavelet modes take any length."""
    if settings.mode != "pix" or not isinstance(settings.scaler, tuple) or len(settings.scaler) in (1, frames):
        return settings
    curve = torch.tensor(settings.scaler)[None, :, None]
    return settings.updated(scaler=resample_aligned(curve, frames))


class Controls:
    """The shared values. Any thread may set them; a tick reads the latest snapshot."""

    def __init__(self, *, dcw: DcwSettings | None = None, device: torch.device | str = "cpu") -> None:
        self._lock = threading.Lock()
        self._device = torch.device(device)
        self.snapshot = Snapshot(dcw=dcw)

    def set(self, name: str, value: SharedValue | None, shape: RingShape) -> None:
        """Share a value with all slots, or give each its own back (None).

        Checked here, on the caller's thread, against the ring's shape. Raises ValueError naming what is wrong; for an unknown
        name it lists the valid ones.
        """
        if name not in STEP_TIME:
            raise ValueError(f"{name!r} cannot be shared; one of {', '.join(STEP_TIME)} is expected")
        checked = None if value is None else _check(name, value, shape, self._device)
        with self._lock:
            self._publish(name, checked)

    def update_dcw(self, changes: Mapping[str, object], shape: RingShape) -> None:
        """Change some fields of the shared wavelet correction (see `DcwSettings.updated`); errors as in `set`."""
        with self._lock:
            current = self.snapshot.dcw or DcwSettings(enabled=False)
            self._publish("dcw", _check("dcw", current.updated(**changes), shape, self._device))

    def _publish(self, name: str, checked: object) -> None:
        current = self.snapshot
        version = current.version + 1
        if name in _FRAME_CURVES or name == "x0_target_gate":
            curves = {key: curve for key, curve in current.curves.items() if key != name}
            if checked is not None:
                curves[name] = checked  # type: ignore[assignment]
            self.snapshot = replace(current, version=version, curves=curves)
        else:
            self.snapshot = replace(current, version=version, **{name: checked})  # type: ignore[arg-type]


def _check(name: str, value: SharedValue, shape: RingShape, device: torch.device) -> object:
    row = PARAMETERS[name]
    if name == "solver":
        if value not in SOLVERS:
            raise ValueError(f"solver is {value!r}; one of {', '.join(SOLVERS)} is expected")
        return value
    if name == "dcw":
        if not isinstance(value, DcwSettings):
            raise ValueError(f"dcw takes DcwSettings, not {type(value).__name__}")
        plan_dcw([value], shape.frames)  # raises for a curve of the wrong length
        return value
    if name == "channel_gain":
        return upload(checked_gain(value, shape)[None], device)
    if name == "adapters":
        return checked_strengths(value)
    if name == "temporal_weights":
        weights = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(
            upload(frame_curve(weight, shape.frames, f"temporal_weights[{k}]", row.low, row.high)[None], device)  # type: ignore[arg-type]
            for k, weight in enumerate(weights)
        )
    frames = 1 if row.kind == "number" else shape.frames
    return upload(frame_curve(value, frames, name, row.low, row.high)[None], device)  # type: ignore[arg-type]
