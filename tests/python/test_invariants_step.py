# SPDX-License-Identifier: Apache-2.0
"""What must hold of a step: schedules, guidance, blends, targets, masks and corrections; most of it to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    BINARY,
    CORRECTIONS,
    STRONG_DCW,
    Affine,
    C,
    Nonlinear,
    T,
    alone,
    prompt,
    request,
    ring_shape,
    share,
    tensor,
)

from engine_server.diffusion.dcw import apply_dcw, plan_dcw
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.guidance import GuidanceRows, guide, project, rescale
from engine_server.diffusion.noise import Purpose
from engine_server.diffusion.request import LatentMask
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.schedule import build_schedule, shifted


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("denoise", [0.0, 1e-6, np.zeros(T)])
@pytest.mark.parametrize("dcw", CORRECTIONS)
def test_no_denoise_returns_the_source_without_a_decoder_row(solver, denoise, dcw):
    """V3: exact, with every correction, beside guidance and noise."""
    decoder = Nonlinear()
    one = request(denoise=denoise, solver=solver, dcw=dcw, ode_noise=0.5, guidance=3.0, guidance_mode="self")
    assert torch.equal(alone(one, decoder=decoder), one.source)
    assert decoder.rows == 0


@pytest.mark.parametrize("mode", ["full", "initialize", "self"])
@pytest.mark.parametrize("momentum", [-0.75, 0.0, 0.9])
def test_guidance_of_one_is_no_guidance(mode, momentum):
    """V7: exact."""
    guided = request(guidance=1.0, guidance_mode=mode, apg_momentum=momentum, negatives=[prompt(9)])
    assert torch.equal(alone(guided), alone(request()))
    assert not torch.allclose(alone(dataclasses.replace(guided, guidance=3.0)), alone(request()), atol=1e-3)


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("dcw", CORRECTIONS)
@pytest.mark.parametrize(
    "weights",
    [
        {"x0_target_strength": 1.0},
        {"x0_target": 1.0},
        {"x0_target": 1.0, "x0_target_gate": 0.999},
        {"x0_target": np.ones(T)},
    ],
)
def test_a_whole_x0_target_is_the_result(solver, dcw, weights):
    """V8: exact, with any correction."""
    one = request(solver=solver, dcw=dcw, velocity_scale=1.3, **weights)
    assert torch.equal(alone(one), one.target)


def test_a_gate_of_one_never_lets_the_target_in():
    """V8: the other end."""
    assert torch.equal(alone(request(x0_target=1.0, x0_target_gate=1.0)), alone(request()))


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("dcw", CORRECTIONS)
def test_preserved_frames_end_on_the_original_and_pinned_frames_on_the_source(solver, dcw):
    """V9: exact, with any correction; the other frames do not."""
    original = tensor(7, T, C)
    masked = request(mask=LatentMask(BINARY, original), solver=solver, dcw=dcw, velocity_scale=1.2)
    pinned = request(source_blend=BINARY, solver=solver, dcw=dcw, ode_noise=0.3)
    for one, held in ((masked, original), (pinned, pinned.source)):
        result = alone(one)
        assert torch.equal(result[BINARY == 0], held[BINARY == 0])
        assert not torch.isclose(result[BINARY == 1], held[BINARY == 1]).all()


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_frames_without_denoise_end_on_the_source(solver):
    """V9, for denoise per frame: exact."""
    one = request(denoise=BINARY, solver=solver, dcw=STRONG_DCW, ode_noise=0.4)
    result = alone(one)
    assert torch.equal(result[BINARY == 0], one.source[BINARY == 0])
    assert not torch.isclose(result[BINARY == 1], one.source[BINARY == 1]).all()


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_a_correction_of_strength_zero_is_none_and_pix_has_no_faders(solver):
    """V10: exact, in the ring."""
    plain = alone(request(solver=solver))
    for off in (
        DcwSettings(scaler=0.0, high_scaler=0.0),
        DcwSettings(enabled=False),
        DcwSettings(mode="low", scaler=[0.0] * T),
    ):
        assert torch.equal(alone(request(solver=solver, dcw=off)), plain)
    zeros = DcwSettings(mult_blend=0.0, mag_phase=0.0, soft_thresh=0.0)
    assert torch.equal(alone(request(solver=solver, dcw=zeros)), alone(request(solver=solver, dcw=DcwSettings())))
    pix = DcwSettings(mode="pix", scaler=0.3)
    faded = pix.updated(mult_blend=0.5, mag_phase=0.5, soft_thresh=0.2)
    assert torch.equal(alone(request(solver=solver, dcw=pix)), alone(request(solver=solver, dcw=faded)))
    assert not torch.equal(alone(request(solver=solver, dcw=pix)), plain)


@pytest.mark.parametrize("frames", [16, 17])
@pytest.mark.parametrize("mode", ["low", "high", "double", "pix"])
def test_the_correction_keeps_what_agrees_with_the_estimate(frames, mode):
    """V11: Haar and pix exact, other wavelets to 5e-6."""
    x, t = tensor(1, 3, frames, C), torch.full((3, 1, 1), 0.4)
    for wavelet, allowed in (("haar", 0.0), ("db4", 5e-6)):
        plan = plan_dcw([DcwSettings(mode=mode, scaler=0.4, high_scaler=0.3, wavelet=wavelet)], frames)
        assert plan is not None
        error = float((apply_dcw(plan, x, x.clone(), t) - x).abs().max())
        assert error <= (0.0 if mode == "pix" else allowed)


@pytest.mark.parametrize("frames", [16, 17])
@pytest.mark.parametrize("t", [0.3, 0.5, 0.9])
def test_haar_with_equal_band_weights_equals_pix(frames, t):
    """V12: 2e-6."""
    x, y, at = tensor(1, 1, frames, C), tensor(2, 1, frames, C), torch.full((1, 1, 1), t)
    weight = 0.2
    bands = plan_dcw([DcwSettings(scaler=weight / t, high_scaler=weight / (1 - t))], frames)
    pix = plan_dcw([DcwSettings(mode="pix", scaler=weight)], frames)
    assert bands is not None
    assert pix is not None
    torch.testing.assert_close(apply_dcw(bands, x, y, at), apply_dcw(pix, x, y, at), atol=2e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1.5, 7.0])
def test_guidance_is_orthogonal_to_the_velocity_and_rescaling_restores_its_norm(scale):
    """V13: 3e-5 of sums over 40 frames, and 1e-6 relative."""
    v, negative, memory = tensor(1, 2, 40, C), tensor(2, 2, 40, C), tensor(3, 2, 40, C)
    settings_of_rows = GuidanceRows(
        scale=torch.full((2, 1, 1), scale), momentum=torch.full((2, 1, 1), -0.75), rescale=torch.zeros(2, 1, 1),
        threshold=torch.full((2, 1, 1), 2.5),
    )  # fmt: skip
    guided, _ = project(v, negative, memory, settings_of_rows)
    along = ((guided - v).double() * v.double()).sum(dim=1)
    assert float(along.abs().max()) < 3e-5
    restored = rescale(guided, v, torch.ones(2, 1, 1))
    torch.testing.assert_close(restored.norm(dim=1), v.norm(dim=1), rtol=1e-6, atol=0)
    if scale > 1:
        assert not torch.allclose(guided.norm(dim=1), v.norm(dim=1), rtol=1e-3)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1.0, 7.0, 1e6])
def test_condition_weights_are_relative(factor):
    """V14: 1e-6 for any common factor; equal prompts count as one."""

    def blended(scale):
        weights = np.linspace(0.1, 1.0, T), np.linspace(2.0, 0.0, T)
        entries = [prompt(k, weight=(w * scale).astype(np.float32)) for k, w in enumerate(weights)]
        return alone(request(conditions=entries))

    torch.testing.assert_close(blended(factor), blended(1.0), atol=2e-6, rtol=0)
    share_of_one = np.linspace(0, 1, T)
    twice = request(conditions=[prompt(1, weight=factor * share_of_one), prompt(1, weight=factor * (1 - share_of_one))])
    torch.testing.assert_close(alone(twice), alone(request(conditions=[prompt(1)])), atol=2e-6, rtol=0)


def test_a_condition_of_weight_zero_changes_no_bit_and_all_zero_weights_leave_the_primary():
    """V14: the ends are exact."""
    single = alone(request(conditions=[prompt(1)]))
    assert torch.equal(alone(request(conditions=[prompt(1, weight=1.0), prompt(2, weight=0.0)])), single)
    assert torch.equal(alone(request(conditions=[prompt(1, weight=0.0), prompt(2, weight=0.0)])), single)
    assert torch.equal(alone(request(conditions=[prompt(1, weight=0.0)])), single)


class Exact(Affine):
    """The velocity of a straight path, `noise - clean`, a constant."""

    def __init__(self, v):
        super().__init__()
        self.v = v

    def __call__(self, x, *args):
        return self.v.expand(x.shape)


@settings(max_examples=40)
@given(
    steps=st.integers(1, 50), shift=st.floats(0.3, 6), denoise=st.floats(0.01, 1), solver=st.sampled_from(["ode", "sde"]),
    compat=st.booleans(),
)  # fmt: skip
def test_an_exact_velocity_returns_the_source_whatever_the_schedule(steps, shift, denoise, solver, compat):
    """V16: 5e-6 over up to 50 steps, by the ODE; by the SDE where fresh noise agrees with the velocity: one step."""
    one = request(
        steps=1 if solver == "sde" else steps, shift=shift, denoise=denoise, solver=solver, compat_denoise=compat
    )
    v = one.noise.draw(Purpose.INITIAL, 0, T, C) - one.source
    torch.testing.assert_close(alone(one, decoder=Exact(v)), one.source, atol=5e-6, rtol=0)


@settings(max_examples=200)
@given(st.integers(1, 50), st.floats(0.01, 10), st.floats(0, 1), st.booleans())
def test_a_schedule_falls_strictly_from_its_start_to_zero(steps, shift, denoise, compat):
    """V17: exact."""
    levels = build_schedule(steps, shift, denoise, compat_denoise=compat)
    if denoise <= 1e-6:
        assert levels.tolist() == [0.0, 0.0]
        return
    assert len(levels) == steps + 1
    assert levels[-1] == 0.0
    assert (np.diff(levels) < 0).all()
    assert (np.diff(levels.astype(np.float32)) < 0).all()
    start = 1.0 if denoise >= 1 else steps / int(steps / denoise) if compat else denoise
    assert levels[0] == shifted(start, shift)


@pytest.mark.parametrize("denoise", [0.6, 1.0])
def test_initial_noise_goes_from_the_source_to_pure_noise(denoise):
    """V18: exact, before the first step."""
    one = request(denoise=denoise)

    def first_state(weight):
        ring = Ring(Nonlinear(), ring_shape(1))
        ring.admit(dataclasses.replace(one, initial_noise=weight))
        return ring.state(one.request_id)

    assert torch.equal(first_state(1.0), one.noise.draw(Purpose.INITIAL, 0, T, C))
    assert torch.equal(first_state(0.0), one.source)
    drawn = first_state(BINARY)
    assert torch.equal(drawn[BINARY == 1], first_state(1.0)[BINARY == 1])
    assert torch.equal(drawn[BINARY == 0], one.source[BINARY == 0])


def test_a_gain_of_one_is_none_and_a_gain_reaches_the_decoder_only():
    """V19: exact."""
    plain = alone(request())
    gain = 1 + tensor(1, T, C)
    for shape in ((T, C), (1, C)):
        assert torch.equal(alone(request(channel_gain=torch.ones(shape))), plain)
        assert torch.equal(alone(request(), prepare=share(channel_gain=torch.ones(shape))), plain)
    assert not torch.equal(alone(request(channel_gain=gain)), plain)
    deaf = request(channel_gain=gain, guidance=2.0, guidance_mode="self")
    without = dataclasses.replace(deaf, channel_gain=None)
    assert torch.equal(alone(deaf, decoder=Affine(a=0.0)), alone(without, decoder=Affine(a=0.0)))


def test_guide_of_rows_that_differ_equals_each_row_by_itself():
    """V1, for guidance at the length of a minute, with several threads allowed to split the work."""
    v, negative, memory = tensor(1, 5, 1500, C), tensor(2, 5, 1500, C), tensor(3, 5, 1500, C)
    rows = GuidanceRows(*(1 + tensor(k, 5, 1500, 1) for k in range(3)), threshold=torch.full((5, 1, 1), 2.5))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        together = guide(v, negative, memory, rows)
        for k in range(5):
            one = slice(k, k + 1)
            row = GuidanceRows(rows.scale[one], rows.momentum[one], rows.rescale[one], rows.threshold[one])
            for all_rows, single in zip(together, guide(v[one], negative[one], memory[one], row), strict=True):
                assert torch.equal(all_rows[one], single)
    finally:
        torch.set_num_threads(threads)
