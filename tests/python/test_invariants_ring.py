# SPDX-License-Identifier: Apache-2.0
"""What must hold of the ring: rows, pacing, atomic ticks, depth, generators, and that no tick waits for a device."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    CORRECTIONS,
    C,
    E,
    Flaky,
    L,
    Nonlinear,
    T,
    alone,
    any_mix,
    prompt,
    request,
    ring_shape,
    run,
    share,
    tensor,
)
from torch.utils._python_dispatch import TorchDispatchMode

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import Purpose, RequestNoise
from engine_server.diffusion.pipeline import StreamPipeline
from engine_server.diffusion.request import LatentMask, SlotRequest
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape

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


@settings(max_examples=60)
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


@settings(max_examples=10)
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


@settings(max_examples=40)
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
