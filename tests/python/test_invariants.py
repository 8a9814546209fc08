# SPDX-License-Identifier: Apache-2.0
"""What must hold of the sampler whatever is asked of it; most of it to the bit. Each test names its invariant."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import AceStepTransformer1DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    Affine,
    C,
    E,
    Flaky,
    L,
    Nonlinear,
    T,
    alone,
    any_mix,
    any_request,
    curves,
    dcw_settings,
    prompt,
    request,
    ring_shape,
    run,
    share,
    shared_values,
    tensor,
)
from torch.utils._python_dispatch import TorchDispatchMode

from engine_server.diffusion.dcw import apply_dcw, plan_dcw
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.guidance import GuidanceRows, guide, project, rescale
from engine_server.diffusion.noise import Purpose, RequestNoise
from engine_server.diffusion.pipeline import StreamPipeline
from engine_server.diffusion.request import ConditionEntry, LatentMask, SlotRequest
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.schedule import build_schedule, shifted
from engine_server.model.dit import DitForward

BINARY = np.array([1, 0, 0] * (T // 3), dtype=np.float32)
STRONG_DCW = DcwSettings(scaler=0.4, high_scaler=0.3)
CORRECTIONS = [None, STRONG_DCW, DcwSettings(mode="pix", scaler=0.3), DcwSettings(wavelet="db4", mag_phase=0.5)]


@settings(max_examples=60, deadline=None)
@given(any_mix(), st.integers(1, 8), st.integers(1, 3))
def test_streamed_together_equals_alone_bit_for_bit(requests, depth, admit_every):
    """V1, V2: any mix, ODE and SDE, noise, masks, guidance, corrections, adapters; any depth, any phase."""
    together = run(requests, depth, admit_every=admit_every)
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one)), one


@settings(max_examples=60, deadline=None)
@given(any_mix(), st.integers(1, 8), shared_values())
def test_streamed_together_equals_alone_under_the_same_shared_controls(requests, depth, values):
    """V1, V2, with step-time controls set."""
    together = run(requests, depth, prepare=share(**values))
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one, prepare=share(**values))), one


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_streamed_together_equals_alone_when_controls_change_in_flight(data):
    """V1, V2: what a slot becomes depends on what was shared at its own steps, not on who else is there."""
    values = data.draw(st.lists(shared_values(), min_size=8, max_size=8))
    requests = [dataclasses.replace(one, steps=4, timesteps=None) for one in data.draw(any_mix(largest=3))]

    def flown(some, depth):
        """All enter in the first tick; after it, controls change before every tick."""
        ring = Ring(Nonlinear(), ring_shape(depth))
        for one in some:
            ring.admit(one)
        finished = {}
        for tick in range(4):
            for name in sorted(values[max(tick - 1, 0)]):
                ring.controls.set(name, None, ring.shape)
            share(**values[tick])(ring)
            finished |= {done.request_id: done.latent for done in ring.tick()}
        return finished

    together = flown(requests, 5)
    for one in requests:
        assert torch.equal(together[one.request_id], flown([one], 1)[one.request_id])


@pytest.mark.parametrize("frames", [1, 13, 1500])
def test_streamed_together_equals_alone_at_any_length(frames):
    """V1, V2: sums along time keep their order whatever the number of rows, odd lengths and long ones included."""
    drawn = np.linspace(0, 1, frames, dtype=np.float32)
    requests = [
        request(0, frames, guidance=drawn * 4, guidance_mode="self", cfg_rescale=0.7, dcw=STRONG_DCW),
        request(1, frames, guidance=3.0, negatives=[prompt(1)], denoise=drawn, solver="sde", dcw=CORRECTIONS[3]),
        request(2, frames, guidance=2.0, guidance_mode="initialize", negatives=[prompt(2)], steps=2),
        request(3, frames, mask=LatentMask(drawn, tensor(3, frames, C)), ode_noise=0.5, dcw=CORRECTIONS[2]),
    ]
    together = run(requests, 3, frames=frames)
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one, frames=frames))


@pytest.fixture(scope="module")
def transformer():
    """The real decoder's architecture, small, with random weights; the sequences are longer than its sliding window.

    A head is 64 bytes or a multiple of it, as in the real model: torch's attention on CPUs rounds by memory alignment, and with
    smaller heads a row's place in the batch shows in its last bit.
    """
    torch.manual_seed(11)
    model = AceStepTransformer1DModel(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, in_channels=3 * C, audio_acoustic_hidden_dim=C, sliding_window=4, encoder_hidden_size=E,
    ).eval()  # fmt: skip
    for tables in (module for module in model.modules() if hasattr(module, "scale_shift_table")):
        torch.nn.init.normal_(tables.scale_shift_table, std=0.2)
    return model


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(24, 40), depth=st.integers(1, 8), data=st.data())
def test_streamed_together_equals_alone_with_the_real_decoder(transformer, frames, depth, data):
    """V1, V2, with prompts of different lengths side by side, and different steps."""
    requests = data.draw(any_mix(frames, largest=4))
    together = run(requests, depth, decoder=DitForward(transformer), frames=frames)
    for one in requests:
        lonely = alone(one, decoder=DitForward(transformer), frames=frames)
        assert bool(torch.isfinite(lonely).all())
        assert torch.equal(together[one.request_id].latent, lonely), one


def test_the_real_decoder_hears_prompt_and_level(transformer):
    """The two tests above would pass with a decoder that ignores its inputs."""
    decoder = DitForward(transformer)
    plain = alone(request(conditions=[prompt(1, words=3)], frames=24), decoder=decoder, frames=24)
    for other in ({"conditions": [prompt(2, words=3)]}, {"conditions": [prompt(1, words=4)]}, {"shift": 1.0}):
        changed = request(**({"conditions": [prompt(1, words=3)], "frames": 24} | other))
        assert not torch.allclose(plain, alone(changed, decoder=decoder, frames=24), atol=1e-4)


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("denoise", [0.0, 1e-6, np.zeros(T)])
@pytest.mark.parametrize("dcw", CORRECTIONS)
def test_no_denoise_returns_the_source_without_a_decoder_row(solver, denoise, dcw):
    """V3: exact, with every correction, beside guidance and noise."""
    decoder = Nonlinear()
    one = request(denoise=denoise, solver=solver, dcw=dcw, ode_noise=0.5, guidance=3.0, guidance_mode="self")
    assert torch.equal(alone(one, decoder=decoder), one.source)
    assert decoder.rows == 0


@settings(max_examples=30, deadline=None)
@given(any_mix(largest=3), shared_values())
def test_shared_and_taken_back_before_a_tick_was_never_shared(requests, values):
    """V4."""

    def set_and_cleared(ring):
        share(**values)(ring)
        share(**dict.fromkeys(values))(ring)

    untouched, touched = run(requests, 3), run(requests, 3, prepare=set_and_cleared)
    for one in requests:
        assert torch.equal(untouched[one.request_id].latent, touched[one.request_id].latent)


NEUTRAL = {
    "velocity_scale": 1.0,
    "source_blend": 1.0,
    "ode_noise": 0.0,
    "x0_target": 0.0,
    "x0_target_strength": 0.0,
    "cfg_rescale": 0.0,
}
"""Values that mean nothing happens, for parameters that have one."""


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_a_curve_of_neutral_values_is_an_absent_one(name, solver):
    """V5, for every parameter that has a neutral value, the request's own or shared."""
    plain = request(solver=solver, guidance=2.0, guidance_mode="self", dcw=STRONG_DCW)
    curve = np.full(T, NEUTRAL[name], dtype=np.float32)
    assert torch.equal(alone(dataclasses.replace(plain, **{name: curve})), alone(plain))
    assert torch.equal(alone(plain, prepare=share(**{name: curve})), alone(plain))


@settings(max_examples=60, deadline=None)
@given(any_mix(largest=3), st.data())
def test_shared_from_the_first_tick_equals_carried_by_every_request(requests, data):
    """V6, for every step-time parameter that a request has."""
    ways = {
        "velocity_scale": curves(0.2, 1.5),
        "ode_noise": curves(0.0, 0.6),
        "x0_target_gate": st.sampled_from([0.0, 0.4, 1.0]),
        "guidance": curves(0.0, 4.0),
        "apg_momentum": curves(-0.9, 0.5),
        "cfg_rescale": curves(0.0, 1.0),
        "channel_gain": st.integers(0, 9).map(lambda seed: 1 + 0.3 * tensor(seed, T, C)),
        "dcw": dcw_settings(),
        "solver": st.sampled_from(["ode", "sde"]),
        "adapters": st.sampled_from([torch.tensor([0.3]), torch.tensor([0.0, 0.7])]),
        "source_blend": curves(0.0, 1.0),
        "x0_target": curves(0.0, 1.0),
        "x0_target_strength": curves(0.0, 1.0),
    }
    name = data.draw(st.sampled_from(sorted(ways)))
    value = data.draw(ways[name])
    needs = {"source_blend": "source", "x0_target": "target", "x0_target_strength": "target"}.get(name)
    if name == "dcw":  # a slot's own correction stands over the shared one
        requests = [dataclasses.replace(one, dcw=None) for one in requests]
    carrying = [
        one
        if (needs and getattr(one, needs) is None) or (name == "guidance" and one.guidance is None)
        else dataclasses.replace(one, **{name: value})
        for one in requests
    ]
    shared, carried = run(requests, 3, prepare=share(**{name: value})), run(carrying, 3)
    for one in requests:
        assert torch.equal(shared[one.request_id].latent, carried[one.request_id].latent), (name, value)


@pytest.mark.parametrize("weights", [[0.3, 0.7], [np.linspace(0, 1, T), 1.0], [0.0, 0.0]])
def test_shared_condition_weights_equal_those_of_the_requests(weights):
    """V6, for weights."""
    plain = request(conditions=[prompt(1), prompt(2, weight=0.9)])
    carrying = request(conditions=[prompt(1, weight=weights[0]), prompt(2, weight=weights[1])])
    assert torch.equal(alone(plain, prepare=share(temporal_weights=weights)), alone(carrying))


def test_a_shared_sde_curve_equals_source_blend_with_the_sde_solver():
    """V6, for the curve that is two parameters in one."""
    curve = np.linspace(0, 1, T)
    carrying = request(source_blend=curve, solver="sde")
    assert torch.equal(alone(request(), prepare=share(sde_denoise_curve=curve)), alone(carrying))


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


ROW_COUNTS = {
    "plain": (request(0, steps=6), 6),
    "two conditions": (request(0, steps=6, conditions=[prompt(1), prompt(2)]), 12),
    "half the steps": (request(0, steps=6, conditions=[prompt(1), prompt(2, step_range=(0.0, 0.5))]), 9),
    "never active": (request(0, steps=6, conditions=[prompt(1, step_range=(0.5, 0.5))]), 6),
    "full": (request(0, steps=6, guidance=2.0, negatives=[prompt(3), prompt(4)]), 18),
    "initialize": (request(0, steps=6, guidance=2.0, guidance_mode="initialize", negatives=[prompt(3)]), 7),
    "self": (request(0, steps=6, guidance=2.0, guidance_mode="self", negatives=[prompt(3)]), 6),
    "off": (request(0, steps=6, guidance=2.0, guidance_mode="off", negatives=[prompt(3)]), 6),
    "no curve": (request(0, steps=6, negatives=[prompt(3)]), 6),
    "nothing to do": (request(0, denoise=0.0), 0),
    "explicit": (request(0, timesteps=[0.9, 0.5, 0.2]), 3),
}


@pytest.mark.parametrize("name", ROW_COUNTS)
def test_a_request_costs_exactly_the_rows_that_it_needs(name):
    """V15: alone, padded to whole batches; and all of them together."""
    one, expected = ROW_COUNTS[name]
    decoder = Nonlinear()
    ring = Ring(decoder, ring_shape(2), batch=4)
    ring.admit(one)
    while ring.busy:
        ring.tick()
    assert ring.forward_rows == expected
    assert decoder.rows == 4 * decoder.calls
    assert decoder.rows >= expected


def test_rows_of_a_mix_add_up():
    """V15."""
    decoder = Nonlinear()
    ring = Ring(decoder, ring_shape(len(ROW_COUNTS)))
    for number, (one, _) in enumerate(ROW_COUNTS.values()):
        ring.admit(dataclasses.replace(one, request_id=number))
    per_tick = []
    while ring.busy:
        before = ring.forward_rows, decoder.rows
        ring.tick()
        per_tick.append((ring.forward_rows - before[0], decoder.rows - before[1]))
    assert ring.forward_rows == sum(expected for _, expected in ROW_COUNTS.values())
    assert all(run_rows == -(-needed // 4) * 4 for needed, run_rows in per_tick)


class Exact(Affine):
    """The velocity of a straight path, `noise - clean`, a constant."""

    def __init__(self, v):
        super().__init__()
        self.v = v

    def __call__(self, x, *args):
        return self.v.expand(x.shape)


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=200, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(depth=st.integers(1, 8), steps=st.integers(1, 50))
def test_completions_come_evenly_and_requests_are_heard_in_time(depth, steps):
    """V20: gaps of floor or ceil of S/D, at least D at once in the long run, and the newest request within ceil(S/D) + S - 1."""
    stream = StreamPipeline(Nonlinear(), ring_shape(depth))
    finished, submitted = [], {}
    for tick in range(4 * steps + 2):
        stream.submit(request(tick, steps=steps))
        submitted[tick] = tick
        finished += [(done.finished_tick, done.request_id) for done in stream.tick()]
        assert stream.busy <= depth
    ticks = [tick for tick, _ in finished]
    assert ticks[0] == steps - 1
    gaps = set(np.diff(ticks).tolist())
    exact = max(steps / depth, 1.0)
    assert gaps <= {int(np.floor(exact)), int(np.ceil(exact))}
    for changed in range(steps, 2 * steps):  # a change just before this tick's submission
        heard = next(tick for tick, number in finished if number >= changed)
        assert heard - changed + 1 <= np.ceil(exact) + steps - 1


@pytest.mark.parametrize("failing", [0, 1, 2, 5, 6, 7])
@pytest.mark.parametrize("admission", ["queue", "live"])
def test_a_failed_tick_changes_nothing(failing, admission):
    """V21: with two forwards per tick, the first or the second failing, the next good ticks are as they would have been."""

    def streamed(decoder):
        stream = StreamPipeline(decoder, ring_shape(4), admission=admission)
        finished = []
        for number in range(8):
            conditions = [prompt(number), prompt(number + 1)]
            stream.submit(request(number, conditions=conditions, solver="sde", guidance=2.0, guidance_mode="self"))
            before = stream.stats()
            try:
                done = stream.tick()
            except RuntimeError:
                assert stream.stats().decoder_rows == before.decoder_rows
                assert stream.stats().ticks == before.ticks
                done = stream.tick()
            finished += done
        return finished + stream.drain()

    expected, got = streamed(Nonlinear()), streamed(Flaky([failing]))
    keys = [(done.request_id, done.admitted_tick, done.finished_tick, done.control_versions) for done in expected]
    assert [(done.request_id, done.admitted_tick, done.finished_tick, done.control_versions) for done in got] == keys
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(expected, got, strict=True))


@settings(max_examples=10, deadline=None)
@given(any_mix())
def test_global_generators_are_left_alone(requests):
    """V22: submit, admission and ticks read no global state and move none."""
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].tolist()
    first = run(requests)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(77)
    second = run(requests)
    assert all(torch.equal(first[key].latent, second[key].latent) for key in first)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_changes_of_depth_lose_no_request_and_change_no_result(data):
    """V23."""
    requests = data.draw(any_mix(largest=8))
    stream = StreamPipeline(Nonlinear(), ring_shape(data.draw(st.integers(1, 8))), admission="queue", warm="burst")
    for one in requests:
        stream.submit(one)
    finished = []
    while stream.busy or stream.stats().waiting:
        if data.draw(st.booleans()):
            stream.set_depth(data.draw(st.integers(1, 8)))
        finished += stream.tick()
    assert Counter(done.request_id for done in finished) == Counter(one.request_id for one in requests)
    for done in finished:
        assert torch.equal(done.latent, alone(done.request))


READS = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select",
    "aten::allclose", "aten::unique", "aten::nonzero_numpy", "aten::_unique2", "aten::argwhere",
}  # fmt: skip
"""Operations whose result the host has to wait for."""


class Recorder(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.name().split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def everything(number):
    """A request that uses all features at once."""
    drawn = np.linspace(0, 1, T, dtype=np.float32)
    return request(
        number, steps=6, solver="sde" if number % 2 else "ode", denoise=drawn, source_blend=drawn, ode_noise=0.3,
        initial_noise=drawn, mask=LatentMask(drawn, tensor(number, T, C), lambda step, steps: 0.5),
        x0_target=drawn, x0_target_strength=0.3, x0_target_gate=0.2, velocity_scale=drawn,
        conditions=[prompt(1, weight=drawn), prompt(2, step_range=(0.0, 0.6)), prompt(3)],
        negatives=[prompt(4), prompt(5, weight=0.3)], guidance=2 * drawn,
        guidance_mode=("full", "initialize", "self")[number % 3], cfg_rescale=0.5, channel_gain=torch.ones(T, C) * 1.1,
        dcw=CORRECTIONS[number % 4], adapters=torch.tensor([0.4]),
    )  # fmt: skip


SHARED = {
    "velocity_scale": np.linspace(0.5, 1, T),
    "sde_denoise_curve": np.linspace(0, 1, T),
    "guidance": 2.5,
    "temporal_weights": [0.3, np.linspace(0, 1, T)],
    "channel_gain": torch.ones(1, C),
    "dcw": DcwSettings(),
    "x0_target_gate": 0.1,
    "adapters": torch.tensor([0.2]),
}


def full_ring(device="cpu"):
    """A ring in mid-flight, every feature in use."""
    ring = Ring(Nonlinear(), ring_shape(4), device=device)
    for number in range(4):
        ring.admit(everything(number))
    share(**SHARED)(ring)
    ring.tick()
    return ring


def test_the_host_reads_nothing_back_in_a_tick():
    """V24, by operation: no read in a steady tick with all features on; the counter does count."""
    ring = full_ring()
    with Recorder() as recorder:
        for _ in range(3):
            ring.tick()
    assert sum(recorder.seen.values()) > 100
    assert not {name: count for name, count in recorder.seen.items() if name in READS}
    with Recorder() as recorder:
        bool(torch.ones(1).any())
    assert recorder.seen.keys() & READS


def test_a_ring_runs_on_a_device_that_has_no_values_to_read():
    """V24, wholly: on the meta device any read or copy to the host raises. Admission, settling and the last tick included."""
    ring = full_ring("meta")
    finished = []
    while ring.busy:
        finished += ring.tick()
    assert [done.latent.shape for done in finished] == [(T, C)] * 4
    with pytest.raises((NotImplementedError, RuntimeError)):
        finished[0].latent.cpu()


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU: counts synchronising calls by CUDA itself"
)
def test_no_call_in_a_tick_waits_for_the_gpu():
    """V24, by CUDA."""
    ring = full_ring("cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            ring.tick()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1, 2**63])
@pytest.mark.parametrize("frames", [1, 13, 250])
def test_a_seeds_noise_is_the_common_cpu_draw(seed, frames):
    """V25: exact, and what a request starts from."""
    expected = torch.randn(1, 64, frames, generator=torch.Generator().manual_seed(seed)).transpose(1, 2)[0]
    assert torch.equal(RequestNoise(seed).draw(Purpose.INITIAL, 0, frames, 64), expected)
    shape = RingShape(1, frames, 64, L, E)
    ring = Ring(Nonlinear(), shape)
    ring.admit(SlotRequest(0, RequestNoise(seed), torch.zeros(frames, 128), [prompt(1)]))
    assert torch.equal(ring.state(0), expected)


CURVES = {
    "denoise": (0.0, 0.25, 0.6, 1.0),
    "velocity_scale": (0.0, 0.7, 1.0, 1.3),
    "source_blend": (0.0, 0.3, 1.0),
    "ode_noise": (0.0, 0.3, 1.0),
    "initial_noise": (0.0, 0.3, 1.0),
    "x0_target": (0.0, 0.3, 1.0),
    "x0_target_strength": (0.0, 0.3, 1.0),
    "guidance": (0.0, 1.0, 2.7),
    "apg_momentum": (-0.75, 0.0, 0.3),
    "cfg_rescale": (0.0, 0.3, 1.0),
    "mask": (0.0, 0.3, 1.0),
    "weight": (0.0, 0.3, 1.7),
    "dcw": (0.0, 0.3),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CURVES.items() for value in values])
@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("dcw", CORRECTIONS)
def test_a_constant_curve_is_the_number_bit_for_bit(name, value, solver, dcw):
    """For every curve of a request, with every correction and both solvers."""
    base = request(solver=solver, guidance=2.0, guidance_mode="self", dcw=dcw)

    def with_value(v):
        if name == "mask":
            return dataclasses.replace(base, mask=LatentMask(v, tensor(1, T, C)))
        if name == "weight":
            return dataclasses.replace(base, conditions=[prompt(1, weight=v), prompt(2, weight=0.5)])
        if name == "dcw":
            return dataclasses.replace(base, dcw=(dcw or DcwSettings()).updated(scaler=v, high_scaler=v))
        return dataclasses.replace(base, **{name: v})

    number = alone(with_value(value))
    for curve in (np.full(T, value, dtype=np.float32), [value] * T, torch.full((1, T, 1), value, dtype=torch.float64)):
        assert torch.equal(alone(with_value(curve)), number)


@settings(max_examples=60, deadline=None)
@given(any_request(), shared_values())
def test_a_shared_constant_curve_is_the_number_bit_for_bit(one, values):
    """For every shared curve."""

    def drawn(value):
        if isinstance(value, float):
            return np.full(T, value, dtype=np.float32)
        return [drawn(each) for each in value] if isinstance(value, list) else value

    curves_only = {name: value if name == "x0_target_gate" else drawn(value) for name, value in values.items()}
    assert torch.equal(alone(one, prepare=share(**values)), alone(one, prepare=share(**curves_only)))


def test_at_neutral_values_a_slot_is_a_plain_euler_loop_bit_for_bit():
    """Against the formula itself: nothing that is not asked for touches a value."""
    one = request(denoise=0.8, steps=6, shift=2.0)
    levels = torch.from_numpy(build_schedule(6, 2.0, float(np.float32(0.8))).astype(np.float32))
    x = levels[0] * one.noise.draw(Purpose.INITIAL, 0, T, C) + (1 - levels[0]) * one.source
    decoder = Nonlinear()
    (entry,) = one.conditions
    encoded = decoder.encode(entry.states[None], entry.mask[None])
    x, context, words = x.expand(4, T, C), one.context.expand(4, T, 2 * C), tuple(e.expand(4) for e in encoded)
    for now, following in itertools.pairwise(levels):
        v = decoder(x, now.expand(4), context, words)
        x = x - now * v if following == 0 else x + (following - now) * v
    assert torch.equal(alone(one), x[0])


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


def test_what_is_not_finite_in_one_slot_reaches_no_other():
    """V1, where a neighbour has run away: it has one condition, the others several, and a weight of 0 does not stop infinity."""
    wild = request(0, velocity_scale=1e30, steps=4)
    others = [
        request(k, conditions=[prompt(k), prompt(9, weight=0.3)], guidance=2.0, guidance_mode="self") for k in (1, 2)
    ]
    together = run([wild, *others, request(3)], 4, decoder=Affine())
    assert not bool(torch.isfinite(together[0].latent).all())
    for one in (*others, request(3)):
        assert torch.equal(together[one.request_id].latent, alone(one, decoder=Affine()))


def test_entries_of_a_condition_are_told_apart_by_their_masks():
    """Padding tokens are not heard."""
    states = tensor(1, L, E)
    padded = states.clone()
    padded[3:] = 1e3
    heard = [
        alone(request(conditions=[ConditionEntry(values, torch.arange(L) < words)]))
        for values, words in ((states, 3), (padded, 3), (states, L))
    ]
    assert torch.equal(heard[0], heard[1])
    assert not torch.equal(heard[0], heard[2])
