# SPDX-License-Identifier: Apache-2.0
"""The ring by itself: slots, progress, failures, buffers, refusals; how results move with a parameter; noise by position."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    Affine,
    C,
    E,
    Flaky,
    L,
    Nonlinear,
    OneBuffer,
    T,
    alone,
    prompt,
    request,
    ring_shape,
    run,
    share,
    tensor,
)

from engine_server.diffusion.noise import PositionNoise, Purpose, RequestNoise
from engine_server.diffusion.request import ConditionEntry, LatentMask
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.schedule import build_schedule, start_level

MIXED = [
    request(0),
    request(1, solver="sde", denoise=0.7),
    request(2, ode_noise=0.4, steps=6, shift=1.0),
    request(3, denoise=np.linspace(0, 1, T), velocity_scale=1.3),
    request(4, denoise=0.0),
    request(5, source=None),
    request(6, source_blend=np.linspace(1, 0, T), solver="sde", steps=1),
]


@settings(max_examples=20)
@given(st.permutations(range(len(MIXED))), st.sampled_from([1, 3, 4, 8]), st.sampled_from([1, 3]))
def test_order_neighbours_depth_and_phase_do_not_matter(order, depth, admit_every):
    together = run([MIXED[k] for k in order], depth, admit_every=admit_every)
    for one in MIXED:
        assert torch.equal(together[one.request_id].latent, alone(one))


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_per_frame_controls_hold_only_their_frames(solver):
    denoise = np.array([0, 1] * (T // 2), dtype=np.float32)
    result = alone(request(denoise=denoise, solver=solver))
    assert torch.equal(result[::2], request().source[::2])
    assert not torch.equal(result[1::2], request().source[1::2])


def test_denoise_is_continuous_along_its_range():
    results = [alone(request(denoise=d)) for d in np.linspace(0, 1, 101)]
    jumps = [float((b - a).abs().max()) for a, b in itertools.pairwise(results)]
    assert max(jumps) < 0.5


def test_per_frame_denoise_joins_continuously():
    """A frame's own start moves through a step of the schedule: no jump at either end of the step."""
    levels = build_schedule(4, 3.0, 1.0)
    span = np.linspace(float(levels[2]) - 0.01, float(levels[1]) + 0.01, 60)
    results = []
    for value in span / (3.0 - 2.0 * span):  # invert the shift
        denoise = np.ones(T, dtype=np.float32)
        denoise[5] = value
        results.append(alone(request(denoise=denoise))[5])
    jumps = [float((b - a).abs().max()) for a, b in itertools.pairwise(results)]
    assert max(jumps) < 0.25


def test_a_velocity_that_points_at_the_source_returns_it_whatever_the_schedule():
    class Pointing(Affine):
        def __call__(self, x, t, *args):
            return (x - request().source) / t.clamp(min=1e-6)[:, None, None]

    for steps, shift, denoise in ((1, 1.0, 1.0), (4, 3.0, 0.6), (8, 0.5, 0.3)):
        result = alone(request(steps=steps, shift=shift, denoise=denoise), decoder=Pointing())
        torch.testing.assert_close(result, request().source, atol=5e-6, rtol=0)


def test_a_failed_tick_changes_nothing_that_can_be_seen():
    ring = Ring(Flaky([2]), ring_shape())
    ring.admit(request(0, ode_noise=0.2))
    ring.tick()
    ring.admit(request(1))
    ring.tick()
    before = ring.progress(), ring.ticks, ring.forward_rows, ring.state(0), ring.state(1)
    with pytest.raises(RuntimeError, match="out of memory"):
        ring.tick()
    after = ring.progress(), ring.ticks, ring.forward_rows, ring.state(0), ring.state(1)
    assert after[:3] == before[:3]
    assert all(torch.equal(a, b) for a, b in zip(after[3:], before[3:], strict=True))
    results = {}
    while ring.busy:
        results |= {done.request_id: done.latent for done in ring.tick()}
    assert torch.equal(results[0], alone(request(0, ode_noise=0.2)))
    assert torch.equal(results[1], alone(request(1)))


@pytest.mark.parametrize("failing", range(6))
def test_a_tick_of_several_forwards_fails_as_a_whole(failing):
    requests = [request(k, guidance=2.0, negatives=[prompt(9)], conditions=[prompt(k), prompt(7)]) for k in range(3)]
    ring = Ring(Flaky([failing]), ring_shape())
    for one in requests:
        ring.admit(one)
    results, failed = {}, 0
    while ring.busy:
        try:
            results |= {done.request_id: done.latent for done in ring.tick()}
        except RuntimeError:
            failed += 1
    assert failed == 1
    assert all(torch.equal(results[one.request_id], alone(one)) for one in requests)


def test_a_decoder_may_hand_out_one_buffer_every_time():
    requests = [request(k, guidance=2.0, guidance_mode="initialize", negatives=[prompt(9)]) for k in range(6)]
    together = run(requests, 6, decoder=OneBuffer())
    for one in requests:
        assert torch.equal(together[one.request_id].latent, alone(one))


def test_a_row_that_comes_free_leaves_nothing_behind():
    """The next slot in the row is bare; everything that the one before it used must be gone."""
    drawn = np.linspace(0, 1, T, dtype=np.float32)
    full = request(
        0, steps=2, solver="sde", denoise=drawn, source_blend=drawn, ode_noise=0.3, x0_target=drawn, velocity_scale=0.5,
        mask=LatentMask(drawn, tensor(1, T, C), lambda step, steps: 0.5), guidance=3.0, negatives=[prompt(5)],
        channel_gain=torch.full((1, C), 2.0), adapters=torch.tensor([1.0]), conditions=[prompt(1), prompt(2), prompt(3)],
    )  # fmt: skip
    bare = request(1, source=None, target=None)
    assert torch.equal(run([full, bare], 1)[1].latent, alone(bare))
    ring = Ring(Nonlinear(), ring_shape(1))
    ring.admit(full)
    ring.tick()
    ring.cancel(0)
    ring.admit(bare)
    finished = []
    while ring.busy:
        finished += ring.tick()
    assert torch.equal(finished[0].latent, alone(bare))


def test_shared_ode_acts_on_the_noise_of_a_request_for_the_sde():
    """A value that the request's own solver ignores comes to life under the shared one, whoever else is there."""
    one = request(0, solver="sde", ode_noise=0.5)
    expected = alone(request(0, solver="ode", ode_noise=0.5))
    assert torch.equal(alone(one, prepare=share(solver="ode")), expected)
    beside = run([one, request(1, ode_noise=0.2)], 2, prepare=share(solver="ode"))
    assert torch.equal(beside[0].latent, expected)


def test_noise_that_is_called_for_in_flight_is_that_of_the_step():
    """The SDE from the third step on: equal to a run whose first two steps happen to be the ODE's."""

    def flown(depth, neighbours):
        ring = Ring(Nonlinear(), ring_shape(depth))
        for number in range(neighbours):
            ring.admit(request(number, steps=6, solver="sde" if number else "ode"))
        finished = {}
        for tick in range(6):
            ring.controls.set("solver", "sde" if tick >= 2 else None, ring.shape)
            finished |= {done.request_id: done.latent for done in ring.tick()}
        return finished[0]

    assert torch.equal(flown(1, 1), flown(4, 4))
    assert not torch.equal(flown(1, 1), alone(request(0, steps=6)))


def test_adapters_that_change_in_flight_encode_anew_only_where_they_changed():
    decoder = Nonlinear()
    ring = Ring(decoder, ring_shape(4))
    for number, strengths in enumerate([None, torch.tensor([0.5]), torch.tensor([0.0]), None]):
        ring.admit(request(number, adapters=strengths))
    assert decoder.encoded == 4
    ring.tick()
    ring.controls.set("adapters", [0.5], ring.shape)
    ring.tick()
    assert decoder.encoded == 6, "of the two without strengths of their own"
    ring.controls.set("velocity_scale", 0.9, ring.shape)
    ring.tick()
    assert decoder.encoded == 6


def test_a_slots_own_adapters_win_over_the_shared_ones():
    own = request(0, adapters=torch.tensor([0.3]))
    shared = share(adapters=[0.9])
    assert torch.equal(alone(own, prepare=shared), alone(own))
    assert torch.equal(alone(request(0), prepare=shared), alone(request(0, adapters=torch.tensor([0.9]))))
    assert not torch.equal(alone(own), alone(request(0)))


def test_float64_and_integer_inputs_are_taken_as_float32():
    wide = request(0, source=request().source.double(), context=request().context.double(), denoise=0.6)
    assert torch.equal(alone(wide), alone(request(0, denoise=0.6)))
    entry = request().conditions[0]
    counted = ConditionEntry(entry.states.double(), entry.mask.long())
    assert torch.equal(alone(request(0, conditions=[counted])), alone(request(0)))


def test_the_memory_of_a_ring_does_not_grow_with_what_passes_through():
    ring = Ring(Nonlinear(), ring_shape(2))

    def flow(first):
        for number in range(first, first + 20):
            ring.admit(request(number, solver="sde", steps=3, conditions=[prompt(1), prompt(2)]))
            while ring.busy:
                ring.tick()
        gc.collect()
        return sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor)

    settled = flow(0)
    assert flow(20) <= settled * 1.01


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"denoise": float("nan")}, "denoise"),
        ({"denoise": np.ones(T + 1)}, "denoise"),
        ({"denoise": -0.1}, "denoise"),
        ({"source_blend": 1.5}, "source_blend"),
        ({"velocity_scale": np.ones((2, 2, 2, 2))}, "velocity_scale"),
        ({"velocity_scale": np.zeros(0)}, "velocity_scale"),
        ({"velocity_scale": torch.ones(1, T, C)}, "velocity_scale"),
        ({"solver": "heun"}, "solver"),
        ({"steps": 0}, "steps"),
        ({"shift": -1.0}, "shift"),
        ({"shift": float("nan")}, "shift"),
        ({"timesteps": [0.5, 0.5]}, "timesteps"),
        ({"source": torch.zeros(T, 3)}, "source"),
        ({"context": torch.zeros(T, C)}, "context"),
        ({"conditions": []}, "conditions"),
        ({"conditions": [ConditionEntry(torch.zeros(L, E), torch.ones(2, dtype=torch.bool))]}, r"conditions\[0\].mask"),
        ({"conditions": [prompt(1, weight=-1.0)]}, r"conditions\[0\].weight"),
        ({"conditions": [prompt(1, step_range=(0.5, 0.2))]}, "step_range"),
        ({"mask": LatentMask(2.0, torch.zeros(T, C))}, "mask.mask"),
        ({"mask": LatentMask(1.0, torch.zeros(T, 1))}, "mask.original"),
        ({"mask": LatentMask(1.0, torch.zeros(T, C), lambda step, steps: float("nan"))}, "mask.strength"),
        ({"guidance": 2.0, "guidance_mode": "half"}, "guidance_mode"),
        ({"guidance": 2.0}, "negatives"),
        ({"apg_norm": "l1"}, "apg_norm"),
        ({"x0_target_gate": 1.5}, "x0_target_gate"),
        ({"target": None, "x0_target": 0.5}, "target"),
        ({"channel_gain": torch.ones(T, 3)}, "channel_gain"),
        ({"source": None, "denoise": 0.5}, "source"),
        ({"source": None, "initial_noise": 0.5}, "initial_noise"),
    ],
)
def test_a_bad_request_is_refused_by_name_and_leaves_the_ring_empty(bad, word):
    ring = Ring(Nonlinear(), ring_shape())
    with pytest.raises(ValueError, match=word):
        ring.admit(request(**bad))
    assert ring.busy == 0


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        RequestNoise(seed)


def test_a_full_ring_says_so_and_a_cancelled_slot_is_free():
    ring = Ring(Nonlinear(), ring_shape())
    for number in range(4):
        ring.admit(request(number))
    with pytest.raises(RuntimeError, match="no slot"):
        ring.admit(request(9))
    assert ring.cancel(2)
    assert not ring.cancel(2)
    assert ring.has_free_slot()
    with pytest.raises(KeyError):
        ring.state(2)


def test_progress_and_completions_tell_where_a_request_stands():
    ring = Ring(Nonlinear(), ring_shape())
    ring.tick()
    ring.admit(request(7, steps=2))
    ring.tick()
    (progress,) = ring.progress()
    assert (progress.request_id, progress.step, progress.steps) == (7, 1, 2)
    ring.controls.set("velocity_scale", 0.5, ring.shape)
    (done,) = ring.tick()
    assert (done.request_id, done.admitted_tick, done.finished_tick, done.control_versions) == (7, 1, 2, (0, 1))


def test_start_levels_agree_with_the_schedule_exactly():
    for denoise in np.linspace(0, 1, 57, dtype=np.float32):
        first = build_schedule(8, 3.0, float(denoise))[0]
        assert start_level(np.float32(denoise), 8, 3.0) == first


def test_position_noise_is_a_function_of_the_absolute_frame():
    for purpose in Purpose:
        whole = PositionNoise(7, -30).draw(purpose, 2, 80, 64)
        for first in (-30, -3, 0, 11):
            part = PositionNoise(7, first).draw(purpose, 2, 20, 64)
            assert torch.equal(part, whole[first + 30 : first + 50])


def test_position_noise_streams_differ_and_are_standard_normal():
    streams = [
        PositionNoise(seed, 0).draw(purpose, step, 500, 64) for seed in (0, 1) for purpose in Purpose for step in (0, 1)
    ]
    for k, one in enumerate(streams):
        assert abs(float(one.mean())) < 0.02
        assert abs(float(one.std()) - 1) < 0.02
        assert abs(float((one**4).mean()) - 3) < 0.2
        for other in streams[:k]:
            assert abs(float((one * other).mean())) < 0.03


def test_equal_strengths_of_another_adapter_encode_what_is_in_flight_again():
    """The column of a removed LoRA may be another's between two ticks, at the same strength."""

    class Adapted(Nonlinear):
        adapter = 1.0

        def encode(self, states, mask, adapters=None):
            return super().encode(states + self.adapter * adapters.sum(), mask)

    decoder = Adapted()
    ring = Ring(decoder, ring_shape())
    ring.controls.set("adapters", torch.tensor([0.5]), ring.shape)
    ring.admit(request(0))
    ring.tick()
    decoder.adapter = 7.0
    ring.controls.set("adapters", torch.tensor([0.5]), ring.shape)
    swapped = ring.compute().state.x[0]

    other = Ring(decoder, ring_shape())
    other.controls.set("adapters", torch.tensor([0.5]), other.shape)
    other.admit(request(0))
    decoder.adapter = 1.0
    other.weights_changed()
    other.tick()
    decoder.adapter = 7.0
    other.weights_changed()
    assert torch.equal(swapped, other.compute().state.x[0])
