# SPDX-License-Identifier: Apache-2.0
"""TensorRT takes the exported files, knows their weights by name, and builds engines of them without a GPU."""

from __future__ import annotations

import functools

import pytest
import torch
from trt_rig import HOP, MAX_FRAMES, decoder, eager, inputs, largest_inputs, oobleck

from shared_protocol.errors import DemonError
from trt_engines import tensorrt_library
from trt_engines.profiles import Span, decoder_axes, vae_decoder_axes, vae_encoder_axes

pytest.importorskip("onnx", reason="onnx is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install --editable '.[trt]'")
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

try:
    tensorrt_library.load_tensorrt()
except DemonError as error:
    pytest.skip(str(error), allow_module_level=True)

from engine_server.model.recipes import RECIPES
from trt_engines.build_engine import build_engine
from trt_engines.export_decoder import export_decoder, refit_weights
from trt_engines.export_vae import export_vae_decoder, export_vae_encoder
from trt_engines.onnx_files import check_names
from trt_engines.parse_network import parse_network

ROWS, FRAMES, TOKENS = Span(1, 2, 4), Span(2, 40, MAX_FRAMES), Span(1, 8, 16)
CAPABILITIES = ["SM89", "SM120"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def model():
    """Like XL, in float32."""
    return decoder("xl")


@pytest.fixture(scope="module")
def exported(model, folder):
    """The model's ONNX file by a recipe; beside float32 all have attention as an operator."""

    @functools.cache
    def export(name):
        path = folder / f"{name}.onnx"
        largest = largest_inputs(model, [inputs(model, 2, 40, 8)])
        export_decoder(model, path, recipe=RECIPES[name], largest_inputs=largest, max_frames=MAX_FRAMES)
        return path

    return export


@pytest.fixture(params=sorted(RECIPES))
def recipe(request):
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def vae_files(folder):
    vae = oobleck()
    export_vae_encoder(vae, folder / "vae_encoder.onnx", dtype=torch.float16)
    export_vae_decoder(vae, folder / "vae_decoder.onnx")
    return folder / "vae_encoder.onnx", folder / "vae_decoder.onnx"


@pytest.fixture
def sine(tmp_path):
    """A model of one operator and one dynamic axis."""
    return operator(tmp_path / "sine.onnx", "Sin", {"x": ["n", 4]}, ["n", 4])


def operator(path, kind, given, result, *, opset=20, **attributes):
    """A model file of one operator over float32."""
    number = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, number, shape) for name, shape in given.items()]
    node = helper.make_node(kind, list(given), ["y"], name="the_only_node", **attributes)
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("y", number, result)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def test_a_decoder_parses_with_the_weights_of_a_lora_by_name(model, exported, recipe):
    path = exported(recipe.name)
    parsed = parse_network(path)
    wanted = refit_weights(model, recipe)
    check_names(parsed.constants(), wanted, where=path.name)
    assert all(parsed.network.mark_weights_refittable(name) for name in wanted)
    width = model.condition_embedder.in_features
    assert parsed.inputs() == {
        "hidden_states": (-1, -1, 64),
        "timestep": (-1,),
        "encoder_hidden_states": (-1, -1, width),
        "encoder_mask": (-1, -1),
        "context_latents": (-1, -1, 128),
    }


def test_a_decoder_builds_for_gpus_that_are_not_here(exported, recipe, tmp_path):
    path = exported(recipe.name)
    engine = tmp_path / "decoder.engine"
    engine.write_bytes(b"an older one")
    size = build_engine(path, engine, decoder_axes(ROWS, FRAMES, TOKENS), compute_capabilities=CAPABILITIES)
    assert size == engine.stat().st_size > 100_000
    assert list(tmp_path.iterdir()) == [engine]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, on which it may build")
def test_an_engine_that_hears_loras_does_not_build_without_its_gpu_and_says_so(model, exported, tmp_path):
    """If this fails, TensorRT has learned it: then tests that need a GPU for such an engine need none."""
    axes, names = decoder_axes(ROWS, FRAMES, TOKENS), refit_weights(model, RECIPES["fp32"])
    with pytest.raises(DemonError, match=r"E_ENGINE_BUILD: .*--refit\) builds only on a machine with the GPU"):
        build_engine(exported("fp32"), tmp_path / "e", axes, compute_capabilities=CAPABILITIES[:1], refittable=names)
    with pytest.raises(DemonError, match=r"E_ENGINE_BUILD: .*no_weight"):
        build_engine(exported("fp32"), tmp_path / "e", axes, compute_capabilities=["SM89"], refittable=["no_weight"])


def test_fp8_does_not_build_for_gpus_that_have_none(exported, tmp_path):
    with pytest.raises(DemonError, match=r"E_ENGINE_BUILD: .*fp8_e4m3"):
        build_engine(exported("fp8"), tmp_path / "e", decoder_axes(ROWS, FRAMES, TOKENS), compute_capabilities=["SM86"])


def test_an_engine_is_built_for_no_longer_windows_than_the_model_has_tables_for(exported, tmp_path):
    path = exported("fp32")
    axes = decoder_axes(ROWS, Span(2, 40, MAX_FRAMES + 2), TOKENS)
    with pytest.raises(
        DemonError, match=f"is 2 / 40 / {MAX_FRAMES + 2}; the model was exported for {MAX_FRAMES}"
    ) as raised:
        build_engine(path, tmp_path / "e", axes, compute_capabilities=CAPABILITIES)
    assert raised.value.code == "E_FIELD"


def test_a_bfloat16_decoder_is_eager_in_float32_but_for_rounding(model, exported):
    """By ONNX's own reference, because onnxruntime has no bfloat16 on the CPU."""
    path = exported("bf16")
    names = refit_weights(model, RECIPES["bf16"])
    kinds = {part.data_type for part in onnx.load(path).graph.initializer if part.name in names}
    assert kinds == {onnx.TensorProto.BFLOAT16}
    case = inputs(model, 2, 20, 5)
    (velocity,) = ReferenceEvaluator(str(path)).run(None, {name: value.numpy() for name, value in case.items()})
    expected = eager(model)(**case)
    off = float((torch.from_numpy(velocity) - expected).norm() / expected.norm())
    assert 1e-4 < off < 0.03, "a few of bfloat16's roundings of 0.4 %"


def test_a_vae_parses_and_builds(vae_files, tmp_path):
    spans = (Span(1, 1, 2), Span(1, 25, 75))
    axes = (vae_encoder_axes(*spans, hop=HOP), vae_decoder_axes(*spans))
    for path, own in zip(vae_files, axes, strict=True):
        assert set(own) == set(parse_network(path).inputs())
        assert build_engine(path, tmp_path / "vae.engine", own, compute_capabilities=["SM86"]) > 10_000


def test_an_operator_that_tensorrt_does_not_know_is_named(tmp_path):
    path = operator(tmp_path / "odd.onnx", "Nonsense", {"x": [4]}, [4])
    with pytest.raises(DemonError, match=r"does not take .*odd\.onnx: .*Nonsense.*the_only_node") as raised:
        parse_network(path)
    assert raised.value.code == "E_ONNX"


def test_a_truncated_file_is_named(sine):
    sine.write_bytes(sine.read_bytes()[:-20])
    with pytest.raises(DemonError, match=r"sine\.onnx cannot be read as ONNX") as raised:
        parse_network(sine)
    assert raised.value.code == "E_ONNX"


def test_what_does_not_build_says_why_and_leaves_the_old_engine(tmp_path):
    """Attention in float32 has no kernel: the reason why decoders in float32 are exported without the operator."""
    given = {name: [1, 2, "n", 16] for name in ("q", "k", "v")}
    path = operator(tmp_path / "attention.onnx", "Attention", given, [1, 2, "n", 16], opset=23)
    engine = tmp_path / "attention.engine"
    engine.write_bytes(b"an older one")
    axes = {name: {2: Span(1, 8, 16)} for name in given}
    with pytest.raises(DemonError, match=r"(?s)attention\.onnx does not build: .*Attention") as raised:
        build_engine(path, engine, axes, compute_capabilities=CAPABILITIES)
    assert raised.value.code == "E_ENGINE_BUILD"
    assert engine.read_bytes() == b"an older one"
    assert sorted(tmp_path.iterdir()) == [engine, path]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, r"axes of x are given for \[\]; those of its \(-1, 4\) are \[0\]"),
        ({"x": {0: Span(1, 1, 2), 1: Span(4, 4, 4)}}, r"axes of x are given for \[0, 1\]"),
        ({"x": {0: Span(1, 1, 2)}, "z": {0: Span(1, 1, 2)}}, "axes are given for z, which is no input; inputs: x"),
    ],
    ids=["too few", "too many", "of no input"],
)
def test_axes_are_those_of_the_network(sine, tmp_path, axes, message):
    with pytest.raises(DemonError, match=message) as raised:
        build_engine(sine, tmp_path / "e", axes, compute_capabilities=CAPABILITIES)
    assert raised.value.code == "E_FIELD"
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("names", [[], ["SM89", "SM1"], ["CURRENT"]])
def test_a_compute_capability_is_one_that_tensorrt_builds_for(sine, tmp_path, names):
    with pytest.raises(DemonError, match=r"E_FIELD: .* does not build for .*; it builds for SM75, .*eager"):
        build_engine(sine, tmp_path / "e", {"x": {0: Span(1, 1, 2)}}, compute_capabilities=names)


def test_an_engine_that_cannot_be_written_is_said_so(sine, tmp_path):
    with pytest.raises(DemonError, match="E_OUTPUT"):
        build_engine(sine, tmp_path / "no" / "e", {"x": {0: Span(1, 1, 2)}}, compute_capabilities=CAPABILITIES)


def test_without_tensorrt_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tensorrt_library, "MODULES", ("tensorrt_that_is_not_here",))
    with pytest.raises(
        DemonError, match=r"tensorrt_that_is_not_here.*install it with pip install .demon-bridge\[trt\]"
    ) as raised:
        tensorrt_library.load_tensorrt.__wrapped__()
    assert raised.value.code == "E_BACKEND"
