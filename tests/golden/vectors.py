# SPDX-License-Identifier: Apache-2.0
"""The reference's golden vectors, file by file: each check yields a name, the largest error and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine_server.diffusion.compositing import composite
from engine_server.diffusion.curves import curve_shape
from engine_server.diffusion.dcw import apply_dcw, plan_dcw
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.gain import GainEntry, channel_gain
from engine_server.diffusion.guidance import NORM_THRESHOLD, GuidanceRows, project, rescale
from engine_server.diffusion.rows import RingShape, StepRows, StepTimes
from engine_server.diffusion.schedule import build_schedule
from engine_server.diffusion.shapes import ramp, temporal_mask, wave
from engine_server.diffusion.step import advance, clean_estimate, hold_masked, mix
from engine_server.diffusion.wavelets import FilterBank, Wavelet, analyse, synthesise
from tests.golden.traces import check_hetero_stream, check_traces

BFLOAT16_STEP = 2.0**-7
"""Half a dozen roundings to eight bits: how far levels computed in bfloat16 may lie from exact ones."""


@dataclass(frozen=True)
class Outcome:
    """One case: the largest absolute error, and the largest allowed."""

    case: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """False also for NaN."""
        return self.error <= self.limit


class Vectors:
    """One file: its arrays as tensors, its cases as dictionaries."""

    def __init__(self, path: Path) -> None:
        self._data = np.load(path)
        texts = self._data.get("cases_json", [])
        self.cases: list[dict[str, Any]] = [json.loads(str(text)) for text in texts]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._data[name])

    def get(self, name: str) -> torch.Tensor | None:
        """An array, or None if the file has no such one."""
        return self[name] if name in self._data else None

    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._data)


def difference(ours: Any, theirs: Any) -> float:
    """Largest absolute difference; infinite where shapes differ."""
    a, b = torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(theirs, dtype=torch.float64)
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max()) if a.numel() else 0.0


def described(case: dict[str, Any]) -> str:
    """A case in one line."""
    return " ".join(f"{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in case.items())


def check_schedule(data: Vectors) -> Iterator[Outcome]:
    for (steps, shift, denoise, valid), exact, coarse in zip(
        data["params"], data["t_f32"], data["t_bf16"], strict=True
    ):
        name = f"steps={int(steps)} shift={shift:g} denoise={denoise:g}"
        levels = build_schedule(int(steps), float(shift), float(denoise), compat_denoise=True)
        yield Outcome(name, difference(levels, exact[: int(valid)]), 1e-6)
        yield Outcome(f"{name} bfloat16", difference(levels, coarse[: int(valid)]), BFLOAT16_STEP)


def check_normalize_curve(data: Vectors) -> Iterator[Outcome]:
    for name in data.names():
        if name.startswith("in_"):
            given = data[name]
            value = given.item() if name in ("in_scalar", "in_int", "in_bool") else given
            yield Outcome(name, difference(curve_shape(value), data[name.replace("in_", "out_")]), 1e-6)


def check_x0_from_vel(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        ours = clean_estimate(data["xt"], data["vt"], torch.tensor(case["t_curr"]))
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_ode_euler(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        rows = rows_like(
            data["xt"],
            velocity_scale=curve_named(case["velocity_scale"], data, "vs_curve"),
            ode_noise=curve_named(case["ode_noise"], data, "on_curve"),
        )
        noise = data["noise"][k : k + 1]
        ours = advance(data["xt"], data["vt"], rows, times(case), noise, None, {"velocity_scale", "ode_noise"})
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_sde_curve(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        rows = rows_like(
            data["x0_pred"],
            source=data["source"],
            has_source=True,
            is_sde=True,
            source_blend=curve_named(case["curve"], data, "curve"),
        )
        noise = data["noise"][k : k + 1]
        # From the level 0 a state is its own clean estimate.
        ours = advance(data["x0_pred"], torch.zeros_like(noise), rows, times(case), noise, None, {"sde", "source"})
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_sde_renoise(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        x, noise = data["x0_pred"], data["noise"].reshape(data["x0_pred"].shape)
        ours = advance(x, torch.zeros_like(x), rows_like(x, is_sde=True), times(case), noise, None, {"sde"})
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_x0_target_blend(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        weight = case["weight"]
        if isinstance(weight, str):
            name, _, factor = weight.partition("*")
            weight = data[name] * float(factor or 1.0)
        ours = mix(1.0 - torch.as_tensor(weight), data["x0_pred"], data["target"])
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_latent_mask(data: Vectors) -> Iterator[Outcome]:
    strengths: dict[str, Callable[[int, int], float]] = {
        "none": lambda step, total: 1.0,
        "half": lambda step, total: 0.5,
        "ramp": lambda step, total: (step + 1) / total,
    }
    for k, case in enumerate(data.cases):
        mask = data[f"mask_{case['mask']}"].reshape(1, -1, 1)
        rows = rows_like(data["xt"], mask=mask, original=data["original"], mask_noise=data["noise"])
        strength = strengths[case["strength_fn"]](case["step"], case["total"])
        at = times({"t_curr": case["t_curr"], "t_next": 0.0}, mask_strength=strength)
        yield Outcome(
            f"before {described(case)}", difference(hold_masked(data["xt"], rows, at)[0], data["out_pre"][k]), 1e-6
        )
        # A step to level 0 with no velocity gives the blended estimate of its state.
        estimate = data["x0_pred"]
        after = advance(estimate, torch.zeros_like(estimate), rows, at, None, None, {"mask"})
        yield Outcome(f"after {described(case)}", difference(after[0], data["out_post"][k]), 1e-6)


def check_velocity_blend(data: Vectors) -> Iterator[Outcome]:
    frames = data["v"].shape[1]
    for k, case in enumerate(data.cases):
        names = case["weights"].split(",")
        weights = torch.stack([weight_named(name, data, frames) for name in names])
        ours = composite(data["v"][: len(names), None], weights)
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_apg(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        settings = GuidanceRows(
            scale=number_or_curve(case["guidance"], data["guidance_curve"]),
            momentum=number_or_curve(case["momentum"], data["momentum_curve"]),
            rescale=number_or_curve(case["rescale"], data["rescale_curve"]),
            threshold=torch.tensor(NORM_THRESHOLD),
        )
        memory = torch.zeros_like(data["v_cond"][:1])
        for step in range(len(data["v_cond"])):
            v, v_negative = (data[name][step : step + 1] * case["input_scale"] for name in ("v_cond", "v_uncond"))
            guided, memory = project(v, v_negative, memory, settings)
            name = f"{described(case)} step {step}"
            yield Outcome(name, difference(guided[0], data["out_apg"][k, step]), 1e-4)
            rescaled = rescale(guided, v, settings.rescale)
            yield Outcome(f"{name} rescaled", difference(rescaled[0], data["out_rescaled"][k, step]), 1e-4)


def check_dcw(data: Vectors) -> Iterator[Outcome]:
    scalers: dict[str, tuple[Any, Any]] = {
        "default": (0.05, 0.02),
        "big": (0.4, 0.25),
        "neg": (-0.2, 0.1),
        "curve": (data["curve_low"], data["curve_high"]),
        "shortcurve": (data["curve_short"], 0.1),
    }
    x, y = data["x_next"], data["denoised"]
    for k, case in enumerate(data.cases):
        scaler, high_scaler = scalers[case["scalers"]]
        settings = DcwSettings(
            mode=case["mode"], scaler=scaler, high_scaler=high_scaler, wavelet=case["wavelet"], **case["advanced"]
        )
        plan = plan_dcw([settings], x.shape[1])
        ours = x if plan is None else apply_dcw(plan, x, y, torch.full((1, 1, 1), case["t"]))
        yield Outcome(described(case), difference(ours[0], data["out"][k]), 1e-5)


def check_dwt(data: Vectors) -> Iterator[Outcome]:
    for name in data.names():
        if not name.endswith("_x"):
            continue
        stem = name.removesuffix("_x")
        signal = data[name].transpose(1, 2)
        bank = FilterBank.of(Wavelet.named(stem.rpartition("_")[0]))
        bands = analyse(bank, signal)
        for band, key in enumerate(("low", "high")):
            yield Outcome(f"{stem} {key}", difference(bands[:, band].transpose(1, 2), data[f"{stem}_{key}"]), 1e-5)
        whole = data[f"{stem}_recon_untrimmed"]
        ours = synthesise(bank, bands, whole.shape[2]).transpose(1, 2)
        yield Outcome(f"{stem} back", difference(ours, whole), 1e-5)


def check_channel_gain(data: Vectors) -> Iterator[Outcome]:
    for k, case in enumerate(data.cases):
        entries = [
            GainEntry(first, last, data["curve"] if scale == "curve" else float(scale))
            for first, last, scale in case["entries"]
        ]
        yield Outcome(described(case), difference(channel_gain(entries), data[f"out_{'abcdefgh'[k]}"]), 1e-6)
    unity = channel_gain([GainEntry(0, 63, 1.0)])
    yield Outcome("all ones give no gain", 0.0 if unity is None else float("inf"), 0.0)


def check_curve_nodes(data: Vectors) -> Iterator[Outcome]:
    for name in data.names():
        if name.startswith("wave_"):
            ours = wave(name.removeprefix("wave_"), period=7, amplitude=0.5, offset=0.25, length=len(data[name]))
        elif name.startswith("mask_resampled_T"):
            ours = temporal_mask(data["mask_in"], int(name.removeprefix("mask_resampled_T")))
        elif name == "ramp":
            ours = ramp(0.3, 1.0, len(data[name]))
        else:
            continue
        yield Outcome(name, difference(ours.reshape(-1), data[name].reshape(-1)), 1e-6)


def check_trace_files(check: Callable[..., Iterator[tuple[str, float]]]) -> Callable[[Vectors], Iterator[Outcome]]:
    """Traces name cases and errors themselves."""

    def run(data: Vectors, *others: Vectors) -> Iterator[Outcome]:
        for case, error in check(data, *others):
            yield Outcome(case, error, 1e-4)

    return run


CHECKS: dict[str, Callable[..., Iterator[Outcome]]] = {
    "schedule": check_schedule,
    "normalize_curve": check_normalize_curve,
    "x0_from_vel": check_x0_from_vel,
    "ode_euler": check_ode_euler,
    "sde_curve": check_sde_curve,
    "sde_renoise": check_sde_renoise,
    "x0_target_blend": check_x0_target_blend,
    "latent_mask": check_latent_mask,
    "velocity_blend": check_velocity_blend,
    "apg": check_apg,
    "dcw": check_dcw,
    "dwt": check_dwt,
    "channel_gain": check_channel_gain,
    "curve_nodes": check_curve_nodes,
    "traces": check_trace_files(check_traces),
    "hetero_stream": check_trace_files(check_hetero_stream),
}
"""By the file's name up to `_T`, which tells a length."""


def check_file(path: Path) -> Iterator[Outcome]:
    """All cases of a file. Raises KeyError for a file of an unknown name."""
    check = CHECKS[path.stem.partition("_T")[0]]
    data = Vectors(path)
    if path.stem == "hetero_stream":
        return check(data, Vectors(path.with_name("traces.npz")))
    return check(data)


def rows_like(latent: torch.Tensor, **given: Any) -> StepRows:
    """Neutral rows for a latent `[1, T, C]`, with fields replaced."""
    _, frames, channels = latent.shape
    rows = StepRows.neutral(1, RingShape(1, frames, channels, 1, 1))
    rows.write(0, {name: value if isinstance(value, bool) else value[0] for name, value in given.items()})
    return rows


def times(case: dict[str, Any], mask_strength: float = 1.0) -> StepTimes:
    """A step from `t_curr` (0 when the case has none) to `t_next`."""
    now, following = case.get("t_curr", 0.0), case["t_next"]
    table = np.array([[now, following, 0.0, 0.0, mask_strength, following <= 0.0]], dtype=np.float32)
    return StepTimes.from_table(table)


def curve_named(spec: str, data: Vectors, name: str) -> torch.Tensor:
    """A case names its curve: `curve`, `one`, `zero`, or `scalar1.3`."""
    if spec == "curve":
        return data[name]
    value = {"one": 1.0, "zero": 0.0}.get(spec)
    return torch.full_like(data[name], float(spec.removeprefix("scalar")) if value is None else value)


def weight_named(spec: str, data: Vectors, frames: int) -> torch.Tensor:
    """A weight `[1, T, 1]` by its name: `none` is 1, `1-w1` is the rest of `w1`."""
    if spec == "none":
        return torch.ones(1, frames, 1)
    if spec.startswith("1-"):
        return 1.0 - data[spec.removeprefix("1-")].reshape(1, -1, 1)
    return data[spec].reshape(1, -1, 1)


def number_or_curve(spec: Any, curve: torch.Tensor) -> torch.Tensor:
    """`curve`, `scalar7` or a number."""
    return curve if spec == "curve" else torch.full((1, 1, 1), float(str(spec).removeprefix("scalar")))
