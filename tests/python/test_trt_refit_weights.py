# SPDX-License-Identifier: Apache-2.0
"""Merged weights are those of an engine that was exported of a merged checkpoint, and what TensorRT takes them by."""

from __future__ import annotations

import pytest
import torch
from device_rig import GPU, hidden, simulated_gpu
from refit_rig import exported, factors, merged, mixed
from trt_rig import decoder, inputs, largest_inputs
from trt_simulation import CPU

from engine_server.model.fp8 import quantize
from engine_server.model.lora import AdapterBank, linear_shapes
from engine_server.model.lora_mix import BARE
from engine_server.model.recipes import RECIPES
from shared_protocol.errors import DemonError
from trt_engines.export_decoder import refit_weights
from trt_engines.refit_engine import TYPES, as_weights
from trt_engines.refit_weights import MergedWeights, in_blocks
from trt_engines.tensorrt_library import load_tensorrt


@pytest.fixture(scope="module")
def model():
    return decoder()


@pytest.fixture
def bank(model):
    bank = AdapterBank()
    bank.add(factors(model, seed=1))
    bank.add(factors(model, seed=2, names=lambda name: "attn" in name))
    return bank


def arrays(weights, mix):
    return {name: array for unit in units(weights) for name, array in weights.of(unit, mix).items()}


def units(weights):
    return dict.fromkeys(map(weights.unit_of, weights.shapes))


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("strengths", [{}, {"_0": 0.7, "_1": -1.25}], ids=["bare", "two LoRAs"])
def test_they_are_those_of_an_export_of_the_merged_checkpoint_to_the_bit(model, bank, name, strengths):
    recipe, mix = RECIPES[name], mixed(bank, **strengths)
    largest = largest_inputs(model, [inputs(model, 2, 40, 16)])
    module = exported(merged(model, mix), recipe, largest)
    there = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    made = MergedWeights(model, recipe, CPU)
    got = arrays(made, mix)
    assert got.keys() == refit_weights(model, recipe).keys()
    for key, array in got.items():
        assert array.dtype == there[key].dtype, key
        assert torch.equal(array.float(), there[key].float()), key
        assert made.counts()[key] == (array.numel(), array.dtype)
        assert array.is_contiguous()


def test_a_merged_weight_is_the_base_and_strength_times_up_times_down(model, bank):
    mix, both = mixed(bank, _0=0.7, _1=-1.25), "layers.1.cross_attn.to_q"
    first, second = factors(model, seed=1)[both], factors(model, seed=2, names=lambda name: "attn" in name)[both]
    base = model.get_submodule(both).weight
    wanted = base.double() + 0.7 * (first[1].double() @ first[0].double())
    wanted -= 1.25 * (second[1].double() @ second[0].double())
    got = MergedWeights(model, RECIPES["fp32"], CPU).of(both, mix)[f"{both}.weight"]
    torch.testing.assert_close(got.double(), wanted, atol=1e-6, rtol=1e-6)
    assert got is not base


def test_a_mix_names_what_it_changes_and_equal_ones_are_the_same(bank):
    mix = mixed(bank, _0=0.0, _1=0.5)
    assert set(mix.shares) == {name for name in linear_shapes(decoder()) if "attn" in name}
    assert mix.is_same(mixed(bank, _1=0.5))
    assert not mix.is_same(mixed(bank, _1=0.51))
    assert not mix.is_same(None)
    assert mixed(bank).is_same(BARE)


@pytest.mark.parametrize(("strength", "is_near"), [(0.519, True), (0.52, False), (0.481, True), (0.48, False)])
def test_what_nobody_hears_is_near(bank, strength, is_near):
    assert mixed(bank, _0=strength).is_near(mixed(bank, _0=0.5)) == is_near


def test_off_is_not_near_anything(bank):
    assert not mixed(bank, _0=0.001).is_near(mixed(bank))
    assert not mixed(bank).is_near(mixed(bank, _0=0.001))
    assert not mixed(bank).is_near(None)


def test_another_lora_in_the_place_of_one_that_was_removed_is_another_mix(model, bank):
    before = mixed(bank, _1=0.5)
    bank.remove(1)
    assert bank.add(factors(model, seed=3, names=lambda name: "attn" in name)) == 1
    assert not mixed(bank, _1=0.5).is_near(before)


@pytest.mark.parametrize("name", ["bf16", "fp8"])
def test_on_a_gpu_they_are_the_same_and_a_fader_that_moves_uploads_nothing(model, bank, name, monkeypatch):
    recipe, unit = RECIPES[name], "layers.1.self_attn.to_v"
    expected = MergedWeights(model, recipe, CPU).of(unit, mixed(bank, _0=0.2, _1=1.5))
    with simulated_gpu(monkeypatch) as gpu:
        bank.to(GPU, torch.float32)
        weights = MergedWeights(model, recipe, GPU)
        weights.of(unit, mixed(bank, _0=0.7))
        before = gpu.waits
        got = weights.of(unit, mixed(bank, _0=0.2, _1=1.5))
        assert gpu.waits == before
        assert all(array.is_cuda for array in got.values())
        assert {key: array.float().tolist() for key, array in hidden(got).items()} == {
            key: array.float().tolist() for key, array in expected.items()
        }
        weights.keep_only(mixed(bank))
        weights.of(unit, mixed(bank))
        assert gpu.slow_uploads[-1] == tuple(expected[f"{unit}.weight"].shape), "what nothing adapts is not kept"


def test_the_second_timestep_is_one_unit_whichever_of_its_linears_is_adapted(model):
    bank = AdapterBank()
    bank.add(factors(model, seed=1, names=lambda name: name == "time_embed_r.linear_2"))
    weights = MergedWeights(model, RECIPES["fp32"], CPU)
    assert set(weights.shares(mixed(bank, _0=1.0))) == {"time_embed_r"}
    assert set(weights.of("time_embed_r", mixed(bank, _0=1.0))) == {"second_time_embedding", "second_time_modulation"}


def test_the_arrays_of_one_block_are_made_at_once():
    names = ["layers.10.a", "norm_out", "layers.1.a", "layers.1.b.c", "time_embed.linear_1", "layers.10.b"]
    assert in_blocks(names) == [
        ["norm_out", "time_embed.linear_1"],
        ["layers.1.a", "layers.1.b.c"],
        ["layers.10.a", "layers.10.b"],
    ]


def test_weights_are_quantised_wherever_they_lie():
    stored, scales = quantize(torch.zeros(3, 4, device="meta"))
    assert (stored.device.type, scales.device.type) == ("meta", "meta")


def test_tensorrt_takes_arrays_of_every_recipe_by_their_address():
    try:
        module = load_tensorrt().module
    except DemonError as error:
        pytest.skip(str(error))
    for dtype in TYPES:
        array = torch.ones(3, 5).to(dtype)
        weights = as_weights(module, array)
        assert (weights.size, weights.nbytes) == (15, array.nbytes)
    assert torch.equal(torch.from_numpy(as_weights(module, torch.arange(4.0)).numpy()), torch.arange(4.0))
    assert {"set_named_weights", "unset_named_weights", "get_missing_weights", "get_all_weights"} <= set(
        dir(module.Refitter)
    )
    assert "refit_cuda_engine_async" in dir(module.Refitter)
    assert {"get_weights_prototype"} <= set(dir(module.Refitter))
    assert {"HOST", "DEVICE"} <= set(module.TensorLocation.__members__)
