# SPDX-License-Identifier: Apache-2.0
"""Schedule, step and ring against the reference's golden vectors (tests/golden/sampler)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_server.diffusion.curves import canonical_curve
from engine_server.diffusion.noise import Purpose, RequestNoise
from engine_server.diffusion.ring import Ring, RingShape, SlotRequest
from engine_server.diffusion.schedule import build_schedule
from engine_server.diffusion.step import StepRows, advance

FOLDER = Path(__file__).parents[1] / "golden" / "sampler"
T, C = 17, 64


def load(name):
    data = np.load(FOLDER / f"{name}.npz")
    cases = [json.loads(str(text)) for text in data["cases_json"]] if "cases_json" in data else []
    return data, cases


def rows(count=1, **given):
    neutral = {
        "source": torch.zeros(count, T, C),
        "initial_noise": torch.zeros(count, T, C),
        "start": torch.full((count, T, 1), 2.0),  # free throughout
        "velocity_scale": torch.ones(count, T, 1),
        "source_blend": torch.ones(count, T, 1),
        "ode_noise": torch.zeros(count, T, 1),
        "is_sde": torch.zeros(count, 1, 1, dtype=torch.bool),
    }
    return StepRows(**(neutral | given))


def level(value):
    return torch.full((1, 1, 1), float(value))


def curve_of(spec, data, name):
    """A case names its curve: `curve`, `one`, `zero`, or `scalar1.3`."""
    if spec == "curve":
        return torch.from_numpy(data[name])
    value = {"one": 1.0, "zero": 0.0}.get(spec)
    return torch.full((1, T, 1), float(spec.removeprefix("scalar")) if value is None else value)


def test_schedules():
    data, _ = load("schedule")
    for (steps, shift, denoise, valid), expected in zip(data["params"], data["t_f32"], strict=True):
        levels = build_schedule(int(steps), shift, denoise, compat_denoise=True)
        assert len(levels) == int(valid)
        np.testing.assert_allclose(levels, expected[: int(valid)], atol=1e-6)


def test_canonical_curve():
    data, _ = load("normalize_curve")
    for name, value in (("scalar", 0.7), ("int", 2), ("bool", True), ("t0", data["in_t0"]), ("t1", data["in_t1"])):
        np.testing.assert_array_equal(canonical_curve(value, 16, name=name), data[f"out_{name}"])


def test_ode_steps():
    data, cases = load("ode_euler")
    for k, case in enumerate(cases):
        given = rows(
            velocity_scale=curve_of(case["velocity_scale"], data, "vs_curve"),
            ode_noise=curve_of(case["ode_noise"], data, "on_curve"),
        )
        x, v, noise = (torch.from_numpy(a) for a in (data["xt"], data["vt"], data["noise"][k : k + 1]))
        out = advance(x, v, level(case["t_curr"]), level(case["t_next"]), given, noise)
        np.testing.assert_allclose(out[0], data["out"][k], atol=1e-5, err_msg=str(case))


def velocity_for(x, estimate, t):
    """A velocity whose clean estimate at level t is `estimate`."""
    return (x - estimate) / t


def test_sde_steps_with_source_blend():
    data, cases = load("sde_curve")
    for k, case in enumerate(cases):
        x, target = torch.from_numpy(data["xt"]), torch.from_numpy(data["x0_pred"])
        given = rows(
            source=torch.from_numpy(data["source"]),
            source_blend=curve_of(case["curve"], data, "curve"),
            is_sde=torch.ones(1, 1, 1, dtype=torch.bool),
        )
        noise = torch.from_numpy(data["noise"][k : k + 1])
        out = advance(x, velocity_for(x, target, 0.9), level(0.9), level(case["t_next"]), given, noise)
        np.testing.assert_allclose(out[0], data["out"][k], atol=1e-5, err_msg=str(case))


def test_bare_sde_steps():
    data, cases = load("sde_renoise")
    for k, case in enumerate(cases):
        target = torch.from_numpy(data["x0_pred"])
        x = torch.zeros_like(target)
        given = rows(is_sde=torch.ones(1, 1, 1, dtype=torch.bool))
        noise = torch.from_numpy(data["noise"]).reshape(1, T, C)
        out = advance(x, velocity_for(x, target, 0.9), level(0.9), level(case["t_next"]), given, noise)
        np.testing.assert_allclose(out[0], data["out"][k], atol=1e-5, err_msg=str(case))


class AffineDecoder:
    """The vectors' stand-in decoder."""

    def __init__(self, data):
        self.a, self.b, self.c = (torch.from_numpy(data[f"dec_{letter}"]) for letter in "ABC")

    def __call__(self, x, t, states, mask, context):
        words = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return x * self.a + context[..., :C] * self.b + t[:, None, None] * self.c + words[:, None]


class RecordedNoise:
    """A vector's own draws."""

    def __init__(self, initial, draws):
        self.initial, self.draws = initial, draws

    def draw(self, purpose, step, frames, channels):
        return torch.from_numpy(self.initial if purpose is Purpose.INITIAL else self.draws[step])


def test_initial_noise_is_the_seeds_cpu_draw():
    data, cases = load("traces")
    for case in cases:
        ours = RequestNoise(case["seed"]).draw(Purpose.INITIAL, 0, T, C)
        np.testing.assert_array_equal(ours, data[f"{case['name']}__init_noise"][0])


def test_whole_slot_trace_through_the_ring():
    """`ode_nodcw` is the trace that needs nothing beyond what the ring does today."""
    data, cases = load("traces")
    (case,) = [c for c in cases if c["name"] == "ode_nodcw"]
    ring = Ring(AffineDecoder(data), RingShape(depth=4, frames=T, channels=C, tokens=5, width=64))
    ring.admit(
        SlotRequest(
            request_id=0,
            noise=RequestNoise(case["seed"]),
            context=torch.from_numpy(data["context"][0]),
            states=torch.from_numpy(data["enc0"][0]),
            mask=torch.ones(5, dtype=torch.bool),
            source=torch.from_numpy(data["source"][0]),
            steps=5,
            shift=2.0,
        )
    )
    done = []
    for state in data["ode_nodcw__states"]:
        done += ring.tick()
        latent = done[0].latent if done else ring._x[0]
        np.testing.assert_allclose(latent, state, atol=1e-4)
    assert len(done) == 1


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"steps": 51}, {"shift": 0.0}, {"shift": float("nan")}, {"denoise": float("nan")}]
)
def test_schedules_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        build_schedule(**({"steps": 8, "shift": 3.0, "denoise": 1.0} | bad))
