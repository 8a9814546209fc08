# SPDX-License-Identifier: Apache-2.0
"""Whole slots through the ring, step by step, and a mixed stream through the pipeline, against the golden traces.

A trace's request is rebuilt from its name and from the curves that stand in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import NoiseSource, Purpose, RequestNoise
from engine_server.diffusion.request import ConditionEntry, LatentMask, SlotRequest
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape

PROMPTS = ("enc0", "enc1", "enc2")


class AffineDecoder:
    """The vectors' stand-in decoder: affine in state, context, level and mean of the prompt."""

    def __init__(self, data: Any) -> None:
        self.a, self.b, self.c = (data[f"dec_{letter}"] for letter in "ABC")

    def encode(self, states: torch.Tensor, mask: torch.Tensor, adapters: object = None) -> tuple[torch.Tensor, ...]:
        count = mask.sum(1, keepdim=True).clamp(min=1)
        return ((states * mask[..., None]).sum(1) / count,)

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor,
        condition: tuple[torch.Tensor, ...],
        adapters: object = None,
    ) -> torch.Tensor:
        return x * self.a + context[..., : x.shape[2]] * self.b + t[:, None, None] * self.c + condition[0][:, None]


class RecordedNoise:
    """A trace's own draws; steps that drew none get zeros, which must not matter."""

    def __init__(self, initial: torch.Tensor, draws: torch.Tensor | None) -> None:
        self._initial, self._draws = initial, draws

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> torch.Tensor:
        if purpose is Purpose.INITIAL:
            return self._initial
        if self._draws is None or step >= len(self._draws):
            return torch.zeros(frames, channels)
        return self._draws[step]


def check_traces(data: Any) -> Iterator[tuple[str, float]]:
    """Every trace: the state after every step, and the initial noise as a function of the seed."""
    frames, channels = data["source"].shape[1:]
    for case in data.cases:
        name = case["name"]
        initial = data[f"{name}__init_noise"][0]
        drawn = RequestNoise(case["seed"]).draw(Purpose.INITIAL, 0, frames, channels)
        yield f"{name} initial noise", 0.0 if torch.equal(drawn, initial) else float("inf")
        draws = data.get(f"{name}__noise")
        request = build_request(data, case, RecordedNoise(initial, draws))
        levels = data[f"{name}__t"].double().reshape(-1)
        if float(levels[0]) > 0:
            request = dataclasses.replace(request, timesteps=levels.tolist())
        ring = Ring(AffineDecoder(data), shape_of(data, depth=4))
        ring.admit(request)
        states, worst = data[f"{name}__states"], 0.0
        for k, expected in enumerate(states):
            done = ring.tick()
            ours = done[0].latent if done else ring.state(0)
            worst = max(worst, float((ours - expected).abs().max()))
            if bool(done) != (k == len(states) - 1):
                worst = float("inf")
        yield name, worst


def check_hetero_stream(data: Any, traces: Any) -> Iterator[tuple[str, float]]:
    """Different requests together in one ring give what the reference's pipeline gave."""
    (case,) = data.cases
    by_name = {trace["name"]: trace for trace in traces.cases}
    ring = Ring(AffineDecoder(traces), shape_of(traces, depth=case["depth"]))
    waiting = [
        dataclasses.replace(
            build_request(traces, by_name[name], RequestNoise(seed)),
            request_id=number,
            dcw=DcwSettings(),
            steps=case["steps"],
            shift=case["shift"],
            compat_denoise=True,
        )
        for number, (name, seed) in enumerate(zip(case["names"], case["seeds"], strict=True))
    ]
    results: dict[Any, torch.Tensor] = {}
    while waiting or ring.busy:
        if waiting and ring.has_free_slot():
            ring.admit(waiting.pop(0))
        results |= {done.request_id: done.latent for done in ring.tick()}
    for row, number in enumerate(case["completion_order"]):
        error = float((results[number] - data["out"][row]).abs().max())
        yield f"{number} {case['names'][number]}", error


def shape_of(data: Any, depth: int) -> RingShape:
    """A ring for the file's latents and prompts."""
    _, frames, channels = data["source"].shape
    return RingShape(depth, frames, channels, longest_prompt(data), data["enc0"].shape[2])


def longest_prompt(data: Any) -> int:
    """The file's prompts have different lengths; all are padded to the longest, and masked."""
    return max(data[name].shape[1] for name in PROMPTS)


def build_request(data: Any, case: dict[str, Any], noise: NoiseSource) -> SlotRequest:
    """The slot request of a trace. Scalars stand in the case, curves follow from the trace's name."""
    name, given, options = case["name"], case["request"], case["options"]
    a, b, c, d, tw = (data[key] for key in ("curve_a", "curve_b", "curve_c", "curve_d", "tw"))
    curves = {
        "velocity_scale": {"vs_curve": 0.4 + a, "sde_curve_vs": 0.7 + b, "everything": 0.7 + 0.6 * a}.get(name),
        "ode_noise_curve": 0.5 * b,
        "initial_noise_curve": c,
        "sde_denoise_curve": a,
        "x0_target_curve": d,
        "x0_target": data["target"][0],
        "guidance_curve": torch.ones_like(a) if name == "cfg_one" else 1 + 4 * a,
        "cfg_rescale_curve": c,
        "primary_temporal_weight": 1 - tw,
    }

    def value(key: str, absent: Any = None) -> Any:
        return curves[key] if given.get(key) == "tensor" else given.get(key, absent)

    sde_curve = value("sde_denoise_curve")
    extra = []
    if "extra_conditions" in given:
        step_range = (0.25, 0.75) if name == "multi_range" else None
        extra = [prompt(data, "enc1", None if step_range else tw, step_range)]
    return SlotRequest(
        request_id=0,
        noise=noise,
        context=data["context"][0],
        conditions=[prompt(data, "enc0", value("primary_temporal_weight")), *extra],
        negatives=[prompt(data, "enc2")] if "neg_conditions" in given else [],
        source=data["source"][0] if given.get("source_latents", "") is not None else None,
        target=value("x0_target"),
        mask=mask_of(data, name, options) if "latent_mask" in given else None,
        denoise=value("denoise", 1.0),
        solver="sde" if sde_curve is not None else options.get("method", "ode"),
        initial_noise=value("initial_noise_curve"),
        velocity_scale=value("velocity_scale", 1.0),
        source_blend=sde_curve,
        ode_noise=value("ode_noise_curve", 0.0),
        x0_target=value("x0_target_curve"),
        x0_target_gate=value("x0_target_gate", 0.0),
        x0_target_strength=value("x0_target_strength", 0.0),
        guidance=value("guidance_curve"),
        guidance_mode=given.get("rcfg_mode") or "full",
        apg_momentum=value("apg_momentum", -0.75),
        cfg_rescale=value("cfg_rescale_curve", 0.0),
        channel_gain=data["gain"][0] if options.get("gain") else None,
        dcw=DcwSettings(enabled=options.get("dcw", True), **options.get("dcw_kw", {})),
    )


def prompt(
    data: Any, name: str, weight: torch.Tensor | None = None, step_range: tuple[float, float] | None = None
) -> ConditionEntry:
    """A prompt of the file, padded."""
    states, tokens = data[name], longest_prompt(data)
    extra = tokens - states.shape[1]
    mask = torch.arange(tokens) < states.shape[1]
    return ConditionEntry(torch.nn.functional.pad(states[0], (0, 0, 0, extra)), mask, weight, step_range)


def mask_of(data: Any, name: str, options: dict[str, Any]) -> LatentMask:
    """The trace's mask, on its source, with the file's noise."""
    strength = (lambda step, total: 1 - step / total) if "strength" in options else None
    return LatentMask(
        mask=data["bmask"] if name == "mask_nodcw" else data["curve_b"],
        original=data["source"][0],
        strength=strength,
        noise=data["mask_noise"][0],
    )
