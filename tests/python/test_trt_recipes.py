# SPDX-License-Identifier: Apache-2.0
"""Recipes: which part of a decoder computes in which type, and that an exported one computes what torch does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from trt_rig import MAX_FRAMES, decoder, eager, inputs, largest_inputs

pytest.importorskip("onnx", reason="onnx is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install --editable '.[trt]'")
from onnx.reference import ReferenceEvaluator

from engine_server.model.lora import linear_shapes
from engine_server.model.recipe_linears import with_recipe
from engine_server.model.recipes import RECIPES, Recipe
from trt_engines.decoder_module import ExportableDecoder
from trt_engines.export_decoder import export_decoder, refit_weights
from trt_engines.onnx_check import compare
from trt_engines.onnx_files import check_names, initializers, read_model

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
ERRORS = {"fp32": (0, 1e-5), "fp16": (1e-4, 2e-3), "bf16": (2e-3, 0.02), "mixed": (2e-3, 0.02), "fp8": (0.01, 0.15)}
"""Of velocities, relative to eager in float32: a few roundings of 0.05 % in float16, 0.4 % in bfloat16, 6 % in E4M3."""
ORDER = {"mixed": 2e-3, "fp8": 0.01}
"""Of the largest difference between onnxruntime and torch: sums in another order, and what is rounded another way for it."""
REFERENCE = {"mixed": 0.015, "fp8": 0.03}
"""The same for ONNX's reference, which rounds every intermediate result to bfloat16."""
NAMES = sorted(RECIPES)


@pytest.fixture(scope="module")
def model():
    return decoder("xl")


@pytest.fixture(scope="module")
def case(model):
    return inputs(model, 2, 40, 13)


@pytest.fixture(scope="module")
def largest(model, case):
    return largest_inputs(model, [case])


def emulated(model, recipe, largest):
    return ExportableDecoder(model, recipe=recipe, max_frames=MAX_FRAMES, largest_inputs=largest).eval()


def off(got, expected):
    return float((got - expected).norm() / expected.norm())


def test_the_first_rule_that_matches_counts():
    recipe = Recipe("mixed", "bf16", (("layers.1.*", "fp32"), ("layers.*", "fp16"), ("*_q", "fp32")))
    paths = ("layers.1.mlp.up_proj", "layers.10.self_attn.to_q", "condition_embedder")
    assert [recipe.arithmetic(path) for path in paths] == ["fp32", "fp16", "bf16"]
    assert str(recipe) == "trunk bf16; layers.1.* fp32; layers.* fp16; *_q fp32"


def test_fp8_is_for_the_blocks():
    with pytest.raises(ValueError, match="time_embed"):
        Recipe("fp8", "bf16", (("time_embed.*", "fp8"),))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_has_the_type_that_the_recipe_says(model, largest, name):
    before = {key: part.clone() for key, part in model.state_dict().items()}
    recipe = RECIPES[name]
    module = emulated(model, recipe, largest)
    for path in linear_shapes(model):
        if not path.startswith("time_embed_r."):
            assert module.get_parameter(f"{path}.weight").dtype == TYPES[recipe.arithmetic(path)], path
    assert module.get_parameter("layers.0.scale_shift_table").dtype == TYPES[recipe.trunk]
    assert all(torch.equal(part, before[key]) for key, part in model.state_dict().items())


def test_weights_that_have_their_type_already_are_shared(model):
    copy = with_recipe(model, replace(RECIPES["mixed"], trunk="fp32"), pytest.fail)
    assert copy.layers[0].scale_shift_table is model.layers[0].scale_shift_table
    assert copy.time_embed.linear_1.weight is model.time_embed.linear_1.weight


@pytest.mark.parametrize("name", NAMES)
def test_the_residual_stream_has_the_trunks_type(model, case, largest, name):
    """Wide modulations must not make it wide: everything that meets it is seen at the inputs of the last block's Linears."""
    module = emulated(model, RECIPES[name], largest)
    seen = []
    for path in ("self_attn.to_q", "cross_attn.to_q", "mlp.up_proj", "mlp.down_proj"):
        place = module.get_submodule(f"layers.1.{path}")
        place.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.no_grad():
        assert module(**case).dtype == torch.float32
    assert seen == [TYPES[RECIPES[name].trunk]] * 4


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_eager_in_float32_but_for_its_rounding(model, case, largest, name):
    with torch.no_grad():
        error = off(emulated(model, RECIPES[name], largest)(**case), eager(model)(**case))
    least, most = ERRORS[name]
    assert least <= error < most


def test_a_linear_that_is_not_calibrated_is_named(model, largest):
    rest = {path: value for path, value in largest.items() if path != "layers.1.mlp.up_proj"}
    with pytest.raises(KeyError, match=r"layers\.1\.mlp\.up_proj"):
        emulated(model, RECIPES["fp8"], rest)


@pytest.mark.parametrize("name", ["mixed", "fp8"])
def test_in_a_float32_trunk_an_exported_recipe_is_torchs_in_onnxruntime(model, case, largest, tmp_path, name):
    """onnxruntime has no bfloat16 on the CPU; the rules are the same in any trunk."""
    recipe, path = replace(RECIPES[name], trunk="fp32"), tmp_path / "decoder.onnx"
    export_decoder(model, path, recipe=recipe, largest_inputs=largest, max_frames=MAX_FRAMES)
    check_names(initializers(path), refit_weights(model, recipe), where=path.name)
    cases = [case, inputs(model, 1, MAX_FRAMES, 7, seed=2)]
    error = compare(path, emulated(model, recipe, largest), cases)["velocity"].relative
    assert error < ORDER[name]


def test_what_several_linears_read_is_quantised_once(model, largest, tmp_path):
    """Queries, keys and values of a block; gate and up; the condition's keys and values of all blocks."""
    path = tmp_path / "decoder.onnx"
    export_decoder(model, path, recipe=RECIPES["fp8"], largest_inputs=largest, max_frames=MAX_FRAMES)
    nodes = read_model(path).graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 6 * len(model.layers) + 1


@pytest.mark.parametrize("name", ["mixed", "fp8"])
def test_an_exported_recipe_is_torchs_by_onnxs_own_reference(model, case, largest, tmp_path, name):
    recipe, path = RECIPES[name], tmp_path / "decoder.onnx"
    export_decoder(model, path, recipe=recipe, largest_inputs=largest, max_frames=MAX_FRAMES)
    (velocity,) = ReferenceEvaluator(str(path)).run(None, {key: value.numpy() for key, value in case.items()})
    with torch.no_grad():
        expected = emulated(model, recipe, largest)(**case)
    assert off(torch.from_numpy(velocity), expected) < REFERENCE[name]
