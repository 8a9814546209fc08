# SPDX-License-Identifier: Apache-2.0
"""`demon bench gpu`: its arithmetic, its models, and that it runs. What it measures is judged by whoever runs it, never here."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine_server.bench.busy_ring import STEPS, BusyRing, MarkedDecoder
from engine_server.bench.clock import Clock, matrix_rate
from engine_server.bench.flops import forward_flops, keys_in_band, token_flops
from engine_server.bench.measure import LEAST_ROUNDS, Combination, measure
from engine_server.bench.models import MODELS, BenchModel, make_codec, random_encoders, random_transformer
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.diffusion.rows import RingShape
from engine_server.model.checkpoint_files import ASSETS, EMBEDDED
from engine_server.model.dit import DitForward
from engine_server.model.placement import Placement, placement

CPU = Placement(torch.device("cpu"), torch.float32)
META = Placement(torch.device("meta"), torch.float32)
SMALL = {
    "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 8, "in_channels": 192, "audio_acoustic_hidden_dim": 64, "encoder_hidden_size": 24, "patch_size": 2,
    "sliding_window": 50, "layer_types": None,
}  # fmt: skip
"""As in XL, neither the hidden width nor that of conditions is that of attention."""


@pytest.mark.parametrize(("rows", "frames", "condition_tokens"), [(1, 40, 6), (3, 40, 6), (1, 101, 6), (1, 40, 9)])
def test_the_operations_of_a_forward_are_those_that_torch_counts(rows, frames, condition_tokens):
    """Where the band holds all tokens: the counter sees whole products, hidden keys included."""
    forward = DitForward(random_transformer(SMALL, CPU))
    states, mask = torch.zeros(rows, condition_tokens, 24), torch.ones(rows, condition_tokens, dtype=torch.bool)
    inputs = torch.zeros(rows, frames, 64), torch.ones(rows), torch.zeros(rows, frames, 128)
    with torch.no_grad():
        condition = forward.encode(states, mask)
        forward(*inputs, condition)  # the second timestep's embedding is remembered from now on
        # The counter knows matrix products, but not what is fused on the CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(*inputs, condition)
    assert forward_flops(SMALL, rows, frames, condition_tokens) == counter.get_total_flops()


def test_layers_with_a_window_are_counted_as_the_configuration_lists_them():
    config = {**SMALL, "sliding_window": 4}
    full, banded = (
        token_flops({**config, "layer_types": [kind] * 3}, 100, 6) for kind in ("full_attention", "sliding_attention")
    )
    assert full - banded == pytest.approx(3 * 4 * 64 * (100 - keys_in_band(100, 4)))
    default = token_flops(config, 100, 6)
    assert default == pytest.approx((full + 2 * banded) / 3)  # the first and the third of three


@pytest.mark.parametrize(("tokens", "window"), [(1, 4), (5, 4), (6, 4), (30, 4), (9, 100)])
def test_the_keys_in_a_band_are_those_that_a_band_mask_leaves(tokens, window):
    index = torch.arange(tokens)
    within = (index[:, None] - index[None, :]).abs() <= window
    assert keys_in_band(tokens, window) == pytest.approx(float(within.float().sum(1).mean()))


@pytest.mark.parametrize(("name", "parameters"), [("2b", 1575.5e6), ("xl", 4168.9e6)])
def test_full_sizes_have_the_parameters_of_ace_step_and_are_made_in_their_type(name, parameters):
    model = random_transformer(MODELS[name].decoder, Placement(torch.device("meta"), torch.bfloat16))
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(parameters, rel=1e-4)
    assert {(weight.dtype, weight.device.type) for weight in model.parameters()} == {(torch.bfloat16, "meta")}
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_encoders_are_made_in_the_type_that_they_compute_in(name):
    modules = random_encoders(MODELS[name], Placement(torch.device("meta"), torch.bfloat16))
    types = [{(weight.dtype, weight.device.type) for weight in module.parameters()} for module in modules]
    half, single = {(torch.bfloat16, "meta")}, {(torch.float32, "meta")}
    assert types == ([half, half] if name == "embedded" else [half, half, single, single])


@pytest.mark.parametrize("name", ["2b", "xl"])
def test_encoders_of_full_sizes_have_the_parameters_of_ace_step(name):
    modules = random_encoders(MODELS[name], META)
    millions = [sum(weight.numel() for weight in module.parameters()) / 1e6 for module in modules]
    assert millions == pytest.approx([595.8, 608.4, 105.0, 105.0], rel=1e-3)


def test_the_encoders_of_the_embedded_model_are_those_that_ship():
    for module, name in zip(
        random_encoders(MODELS["embedded"], META), ("text_encoder", "condition_encoder"), strict=True
    ):
        (path,) = (ASSETS / EMBEDDED / name).glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            shipped = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        assert {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()} == shipped


def test_the_codec_of_full_sizes_is_ace_steps():
    codec = make_codec(MODELS["2b"], torch.device("meta"))
    assert (codec.sample_rate, codec.hop, codec.latent_channels) == (48_000, 1920, 64)
    assert sum(weight.numel() for weight in codec.vae.parameters()) == pytest.approx(168.7e6, rel=1e-3)


def test_marks_are_in_order_and_the_rate_is_that_of_products():
    clock = Clock(CPU.device)
    first = clock.mark()
    rate = matrix_rate(CPU.device, torch.float32, size=128, rounds=3)
    last = clock.mark()
    clock.wait()
    assert clock.seconds(first, last) > 0
    assert 1e6 < rate < 1e14


def tiny_model():
    return BenchModel("tiny", SMALL, condition_tokens=7, vae=None, encoders={})


@pytest.mark.parametrize("depth", [1, 6])
def test_a_full_ring_is_measured_on_the_cpu_where_memory_and_waits_are_left_out(depth):
    rate = 1e12
    what = Combination(tiny_model(), 2.0, depth, "eager")
    figures = measure(what, CPU, rate, budget_s=0.0)
    assert figures.ticks == LEAST_ROUNDS * STEPS
    assert figures.rows == -(-depth // DEFAULT_BATCH) * DEFAULT_BATCH
    assert 0 < figures.tick_ms <= figures.tick_p99_ms < figures.convergence_ms
    assert figures.floor_ms == pytest.approx(1000 * forward_flops(SMALL, depth, 50, 7) / rate)
    assert figures.over_floor == pytest.approx(figures.tick_ms / figures.floor_ms)
    assert figures.generations_per_s > 0
    assert 0 < figures.outside < 1
    assert figures.decode_ms > 0
    assert figures.memory is None
    assert figures.waits_per_tick is None


@pytest.mark.parametrize("depth", [1, 3, 4, 8, 12])
def test_a_busy_ring_finishes_a_generation_of_every_slot_in_as_many_ticks_as_it_has_steps(depth):
    clock = Clock(CPU.device)
    decoder = MarkedDecoder(DitForward(random_transformer(SMALL, CPU)), clock)
    with torch.no_grad():
        ring = BusyRing(decoder, RingShape(depth, 10, 64, 7, 24), CPU.device, clock)
        ring.taken_marks()
        decoder.forget()
        for _ in range(2 * STEPS):
            ring.refill()
            ring.tick()
    marks = ring.taken_marks()
    assert (len(marks.ticks), marks.finished) == (2 * STEPS, 2 * depth)
    assert len(marks.generations) == depth  # those that were in flight before have no beginning
    assert len(decoder.marks) == 2 * STEPS * -(-depth // DEFAULT_BATCH)
    for first, last in marks.generations:
        assert sum(first < end <= last for _, end in marks.ticks) == STEPS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: its memory and what waits for it")
def test_a_full_ring_is_measured_on_a_gpu():
    place = placement("cuda", None)
    figures = measure(Combination(MODELS["embedded"], 10.0, 4, "eager"), place, 1e14, budget_s=0.0)
    assert figures.waits_per_tick == 0
    memory, embedded = figures.memory, MODELS["embedded"]
    parameters = sum(each.numel() for each in random_transformer(embedded.decoder, place).parameters())
    assert memory.decoder >= 2 * parameters
    encoders = random_encoders(embedded, place)
    assert memory.encoders >= 2 * sum(each.numel() for module in encoders for each in module.parameters())
    assert memory.ring > 0
    assert memory.codec > 0
    assert memory.peak >= memory.decoder + memory.encoders + memory.codec + memory.ring
