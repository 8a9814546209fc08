# SPDX-License-Identifier: Apache-2.0
"""What must hold of a slot's result whoever flies beside it and however its values were said; to the bit."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from diffusers import AceStepTransformer1DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    CORRECTIONS,
    STRONG_DCW,
    Affine,
    C,
    ChannelsFirst,
    E,
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

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import Purpose
from engine_server.diffusion.request import ConditionEntry, LatentMask
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.schedule import build_schedule
from engine_server.model.dit import DitForward


@settings(max_examples=60)
@given(any_mix(), st.integers(1, 8), st.integers(1, 3))
def test_streamed_together_equals_alone_bit_for_bit(requests, depth, admit_every):
    """V1, V2: any mix, ODE and SDE, noise, masks, guidance, corrections, adapters; any depth, any phase."""
    together = run(requests, depth, admit_every=admit_every)
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one)), one


@settings(max_examples=60)
@given(any_mix(), st.integers(1, 8), shared_values())
def test_streamed_together_equals_alone_under_the_same_shared_controls(requests, depth, values):
    """V1, V2, with step-time controls set."""
    together = run(requests, depth, prepare=share(**values))
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one, prepare=share(**values))), one


@settings(max_examples=15)
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


@pytest.mark.parametrize("frames", [24, 37, 1500])
def test_streamed_together_equals_alone_however_a_velocity_lies_in_memory(frames):
    """V1: sums along time run over memory of one layout, taken as a view or gathered."""
    guided = {"guidance_mode": "self", "cfg_rescale": 1.0, "steps": 2}
    requests = [request(number, frames, guidance=0.5 * number, **guided) for number in range(4)]
    for depth in (2, 5):
        together = run(requests, depth, decoder=ChannelsFirst(), frames=frames)
        for one in requests:
            lonely = alone(one, decoder=ChannelsFirst(), frames=frames)
            assert torch.equal(together[one.request_id].latent, lonely)


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


@settings(max_examples=20)
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


@settings(max_examples=30)
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


@settings(max_examples=60)
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
    if name in ("dcw", "adapters"):  # a slot's own stand over the shared ones
        requests = [dataclasses.replace(one, **{name: None}) for one in requests]
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


@settings(max_examples=60)
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
