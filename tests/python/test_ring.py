# SPDX-License-Identifier: Apache-2.0
"""The ring: neighbours, order, depth and timing must not change a result; every feature at its neutral value is absent."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.diffusion.noise import PositionNoise, Purpose, RequestNoise
from engine_server.diffusion.ring import Ring, RingShape, SlotRequest
from engine_server.diffusion.schedule import build_schedule, start_level

T, C, L, E = 12, 64, 5, 8
SHAPE = RingShape(depth=4, frames=T, channels=C, tokens=L, width=E)


class CountingDecoder:
    """Deterministic, row-independent and not linear in time; counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, states, mask, context):
        self.calls += 1
        words = (states * mask[..., None]).sum((1, 2))[:, None, None]
        return torch.tanh(x + 0.3 * x.roll(1, dims=1)) + 0.1 * context[..., :C] + t[:, None, None] + 0.01 * words


def tensor(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def request(number=0, **given):
    base = {
        "request_id": number,
        "noise": RequestNoise(100 + number),
        "context": tensor(200 + number, T, 2 * C),
        "states": tensor(300 + number, L, E),
        "mask": torch.ones(L, dtype=torch.bool),
        "source": tensor(400 + number, T, C),
        "steps": 4,
    }
    return SlotRequest(**(base | given))


def run(requests, depth=4, decoder=None, admit_every=1):
    """Results by request id, the requests entering as slots become free."""
    ring = Ring(decoder or CountingDecoder(), RingShape(depth, T, C, L, E))
    waiting, results, tick = list(requests), {}, 0
    while waiting or ring.busy:
        if waiting and ring.has_free_slot() and tick % admit_every == 0:
            ring.admit(waiting.pop(0))
        for completion in ring.tick():
            results[completion.request_id] = completion.latent
        tick += 1
    return results


def alone(one, **kwargs):
    return run([one], **kwargs)[one.request_id]


MIXED = [
    request(0),
    request(1, solver="sde", denoise=0.7),
    request(2, ode_noise=0.4, steps=6, shift=1.0),
    request(3, denoise=np.linspace(0, 1, T), velocity_scale=1.3),
    request(4, denoise=0.0),
    request(5, source=None),
    request(6, source_blend=np.linspace(1, 0, T), solver="sde", steps=1),
]


@pytest.mark.parametrize("depth", [4, 8])
@pytest.mark.parametrize("admit_every", [1, 3])
def test_streaming_equals_batch_bit_for_bit(depth, admit_every):
    together = run(MIXED, depth, admit_every=admit_every)
    for one in MIXED:
        assert torch.equal(together[one.request_id], alone(one, depth=depth)), one.request_id


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(MIXED))))
def test_order_and_neighbours_do_not_matter(order):
    together = run([MIXED[k] for k in order])
    for one in MIXED:
        assert torch.equal(together[one.request_id], alone(one))


@pytest.mark.parametrize("value", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("lane", ["denoise", "velocity_scale", "source_blend", "ode_noise", "initial_noise"])
def test_a_constant_curve_is_the_scalar_bit_for_bit(lane, value, solver):
    scalar = alone(request(solver=solver, **{lane: value}))
    curve = alone(request(solver=solver, **{lane: np.full(T, value, dtype=np.float32)}))
    assert torch.equal(scalar, curve)


def test_at_neutral_values_the_ring_is_a_plain_euler_loop_bit_for_bit():
    one = request(denoise=0.8, steps=6, shift=2.0)
    levels = torch.from_numpy(build_schedule(6, 2.0, float(np.float32(0.8))).astype(np.float32))
    x = levels[0] * one.noise.draw(Purpose.INITIAL, 0, T, C) + (1 - levels[0]) * one.source
    x, context, decoder = x.expand(4, T, C), one.context.expand(4, T, 2 * C), CountingDecoder()
    for now, following in itertools.pairwise(levels):
        v = decoder(x, now.expand(4), one.states.expand(4, L, E), one.mask.expand(4, L), context)
        x = x - now * v if following == 0 else x + (following - now) * v
    assert torch.equal(alone(one), x[0])


def test_denoise_zero_returns_the_source_without_a_forward():
    decoder = CountingDecoder()
    one = request(denoise=0.0)
    assert torch.equal(alone(one, decoder=decoder), one.source)
    assert decoder.calls == 0


def test_frames_with_denoise_zero_end_on_the_source_exactly():
    denoise = np.array([0, 1] * (T // 2), dtype=np.float32)
    one = request(denoise=denoise, solver="sde")
    result = alone(one)
    assert torch.equal(result[::2], one.source[::2])
    assert not torch.equal(result[1::2], one.source[1::2])


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_pinned_frames_end_on_the_source_exactly(solver):
    pinned = np.array([1, 0, 0] * (T // 3), dtype=np.float32)
    one = request(source_blend=pinned, solver=solver, ode_noise=0.3)
    result = alone(one)
    assert torch.equal(result[pinned == 0], one.source[pinned == 0])
    assert not torch.isclose(result[pinned == 1], one.source[pinned == 1]).all()


def test_denoise_is_continuous_along_its_range():
    results = [alone(request(denoise=d)) for d in np.linspace(0, 1, 101)]
    jumps = [float((b - a).abs().max()) for a, b in itertools.pairwise(results)]
    assert max(jumps) < 0.5


def test_per_frame_denoise_joins_continuously():
    """A frame's own start moves through a step of the schedule: no jump at either end of the step."""
    levels = build_schedule(4, 3.0, 1.0)
    span = np.linspace(float(levels[2]) - 0.01, float(levels[1]) + 0.01, 60)
    u = span / (3.0 - 2.0 * span)  # invert the shift
    results = []
    for value in u:
        denoise = np.ones(T, dtype=np.float32)
        denoise[5] = value
        results.append(alone(request(denoise=denoise))[5])
    jumps = [float((b - a).abs().max()) for a, b in itertools.pairwise(results)]
    assert max(jumps) < 0.25


def test_an_exact_velocity_returns_the_source_whatever_the_schedule():
    source = tensor(400, T, C)

    def perfect(x, t, states, mask, context):
        return (x - source) / t.clamp(min=1e-6)[:, None, None]

    for steps, shift, denoise in ((1, 1.0, 1.0), (4, 3.0, 0.6), (8, 0.5, 0.3)):
        result = alone(request(steps=steps, shift=shift, denoise=denoise), decoder=perfect)
        torch.testing.assert_close(result, source, atol=5e-6, rtol=0)


def test_a_failed_tick_changes_nothing():
    class Flaky(CountingDecoder):
        def __call__(self, *args):
            if self.calls == 2:
                self.calls += 1
                raise RuntimeError("out of memory")
            return super().__call__(*args)

    ring = Ring(Flaky(), SHAPE)
    ring.admit(request(0, ode_noise=0.2))
    ring.tick()
    ring.admit(request(1))
    ring.tick()
    before = ring.progress()
    with pytest.raises(RuntimeError, match="out of memory"):
        ring.tick()
    assert ring.progress() == before
    results = {}
    while ring.busy:
        results |= {c.request_id: c.latent for c in ring.tick()}
    assert torch.equal(results[0], alone(request(0, ode_noise=0.2)))
    assert torch.equal(results[1], alone(request(1)))


def test_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    run(MIXED)
    assert (torch.rand(1), np.random.rand()) == expected


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"denoise": float("nan")}, "denoise"),
        ({"denoise": np.ones(T + 1)}, "denoise"),
        ({"denoise": -0.1}, "denoise"),
        ({"source_blend": 1.5}, "source_blend"),
        ({"velocity_scale": np.ones((2, 2, 2, 2))}, "velocity_scale"),
        ({"velocity_scale": np.zeros(0)}, "velocity_scale"),
        ({"solver": "heun"}, "solver"),
        ({"steps": 0}, "steps"),
        ({"shift": -1.0}, "shift"),
        ({"source": torch.zeros(T, 3)}, "source"),
        ({"context": torch.zeros(T, C)}, "context"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, "mask"),
        ({"source": None, "denoise": 0.5}, "source"),
    ],
)
def test_a_bad_request_is_refused_by_name_and_leaves_the_ring_empty(bad, word):
    ring = Ring(CountingDecoder(), SHAPE)
    with pytest.raises(ValueError, match=word):
        ring.admit(request(**bad))
    assert ring.busy == 0


def test_a_full_ring_says_so_and_a_cancelled_slot_is_free():
    ring = Ring(CountingDecoder(), SHAPE)
    for number in range(4):
        ring.admit(request(number))
    with pytest.raises(RuntimeError, match="no slot"):
        ring.admit(request(9))
    assert ring.cancel(2)
    assert not ring.cancel(2)
    assert ring.has_free_slot()


def test_start_levels_agree_with_the_schedule_exactly():
    for denoise in np.linspace(0, 1, 57, dtype=np.float32):
        first = build_schedule(8, 3.0, float(denoise))[0]
        assert start_level(np.float32(denoise), 8, 3.0) == first


def test_position_noise_is_a_function_of_the_absolute_frame():
    for purpose in Purpose:
        whole = PositionNoise(7, -30).draw(purpose, 2, 80, C)
        for first in (-30, -3, 0, 11):
            part = PositionNoise(7, first).draw(purpose, 2, 20, C)
            assert torch.equal(part, whole[first + 30 : first + 50])


def test_position_noise_streams_differ_and_are_standard_normal():
    streams = [
        PositionNoise(seed, 0).draw(purpose, step, 500, C) for seed in (0, 1) for purpose in Purpose for step in (0, 1)
    ]
    for k, one in enumerate(streams):
        assert abs(float(one.mean())) < 0.02
        assert abs(float(one.std()) - 1) < 0.02
        assert abs(float((one**4).mean()) - 3) < 0.2
        for other in streams[:k]:
            assert abs(float((one * other).mean())) < 0.03
