# SPDX-License-Identifier: Apache-2.0
"""Exported ONNX files compute what eager computes, for every shape, and keep every weight that a LoRA may change."""

from __future__ import annotations

import pytest
import torch
from trt_rig import HOP, LATENTS, MAX_FRAMES, decoder, eager, inputs, oobleck

from engine_server.model.codec import OobleckCodec
from engine_server.model.dit_block import embed_time
from engine_server.model.lora import linear_shapes
from shared_protocol.errors import DemonError

pytest.importorskip("onnx", reason="onnx is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install --editable '.[trt]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install --editable '.[trt]'")
import onnx
import onnx_ir

from engine_server.model.recipes import RECIPES
from trt_engines.decoder_module import SECOND_TIME
from trt_engines.export_decoder import export_decoder, refit_weights
from trt_engines.export_vae import export_vae_decoder, export_vae_encoder
from trt_engines.onnx_check import OnnxModel, compare
from trt_engines.onnx_files import check_names, initializers, model_hash, read_model
from trt_engines.onnx_graph import save_graph
from trt_engines.profiles import Span, decoder_axes

EXACT = 5e-5
"""Of float32, relative to the scale. The noise level's sinusoids take up to 1000 radians, where float32 rounds to 6e-5."""
HALF = 0.01
"""Of float16: its rounding of 0.05 % through two layers."""
SHAPES = [(1, 2, 1), (1, 40, 13), (2, 16, 5), (2, 14, 40), (4, 100, 30), (4, MAX_FRAMES, 7)]
"""Rows, frames and tokens, within and beyond the sliding window of 6 tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def model():
    return decoder()


@pytest.fixture(scope="module")
def path(model, folder):
    export_decoder(model, folder / "decoder.onnx", max_frames=MAX_FRAMES)
    return folder / "decoder.onnx"


@pytest.fixture(scope="module")
def outside(path, folder):
    """The decoder with its weights in a file beside it."""
    other = folder / "outside.onnx"
    save_graph(onnx_ir.load(path), other, external_data=True)
    return other


@pytest.fixture
def copied(outside, tmp_path):
    for name in (outside.name, outside.name + ".data"):
        (tmp_path / name).write_bytes(outside.with_name(name).read_bytes())
    return tmp_path / outside.name


@pytest.fixture(scope="module")
def vae():
    return oobleck()


@pytest.fixture(scope="module")
def vae_decoder(vae, folder):
    export_vae_decoder(vae, folder / "vae_decoder.onnx")
    return folder / "vae_decoder.onnx"


def agreement(path, run, cases):
    return {name: said.relative for name, said in compare(path, run, cases).items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_exported_decoder_is_eager_for_every_number_of_rows_frames_and_tokens(model, path, shape):
    assert agreement(path, eager(model), [inputs(model, *shape)])["velocity"] < EXACT


def test_a_decoder_like_xl_in_half_precision_is_eager_in_float32_but_for_rounding(folder):
    model = decoder("xl")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    export_decoder(model, folder / "half.onnx", recipe=RECIPES["fp16"], max_frames=MAX_FRAMES)
    off = agreement(folder / "half.onnx", eager(model), [inputs(model, *shape) for shape in SHAPES])["velocity"]
    assert EXACT < off < HALF, "float32 would be closer, and another function farther"
    check_names(initializers(folder / "half.onnx"), refit_weights(model, RECIPES["fp16"]), where="half.onnx")
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert isinstance(model.proj_in_conv, torch.nn.Conv1d)


def test_comparing_with_another_decoder_says_how_far_apart_they_are(model, path):
    said = compare(path, eager(decoder(seed=5)), [inputs(model, 2, 16, 5)])["velocity"]
    assert said.relative > 0.1
    assert said.largest_error == pytest.approx(said.relative * said.scale)


def test_comparing_nothing_is_no_agreement(model, path):
    with pytest.raises(ValueError, match="at least one"):
        compare(path, eager(model), [])


def test_masked_tokens_are_not_heard(model, path):
    run = OnnxModel(path)
    short = inputs(model, 4, 30, 9)
    padding = torch.full((4, 6, short["encoder_hidden_states"].shape[2]), 5.0)
    long = short | {
        "encoder_hidden_states": torch.cat([short["encoder_hidden_states"], padding], dim=1),
        "encoder_mask": torch.cat([short["encoder_mask"], torch.zeros(4, 6, dtype=torch.bool)], dim=1),
    }
    expected = run(short)["velocity"]
    torch.testing.assert_close(run(long)["velocity"], expected, atol=EXACT, rtol=0)
    heard = run(long | {"encoder_mask": torch.ones(4, 15, dtype=torch.bool)})["velocity"]
    assert float((heard - expected).abs().max()) > 0.01


def test_rows_without_a_condition_stay_finite(model, path):
    case = inputs(model, 2, 20, 6)
    nothing = OnnxModel(path)(case | {"encoder_mask": torch.zeros(2, 6, dtype=torch.bool)})["velocity"]
    assert bool(nothing.isfinite().all())


def test_every_weight_that_a_lora_may_change_keeps_its_name_and_its_layout(model, path):
    wanted = refit_weights(model, RECIPES["fp32"])
    linears = linear_shapes(model)
    folded = [name for name in linears if name.startswith("time_embed_r.")]
    assert len(folded) == 3
    assert len(wanted) == len(linears) - len(folded) + len(SECOND_TIME)
    check_names(initializers(path), wanted, where=path.name)
    parameters = dict(model.named_parameters())
    stored = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load(path).graph.initializer}
    for name in wanted:
        if name not in SECOND_TIME:
            assert torch.equal(torch.from_numpy(stored[name].copy()), parameters[name]), name
    embedded = embed_time(model.time_embed_r, torch.zeros(1), None)
    for name, constant in zip(SECOND_TIME, embedded, strict=True):
        assert torch.equal(torch.from_numpy(stored[name].copy()), constant), name


def test_a_lora_weight_that_is_missing_or_turned_is_named():
    wanted = {"to_q.weight": (32, 16), "to_k.weight": (8, 16), "to_v.weight": (8, 16)}
    with pytest.raises(
        DemonError, match=r"d.onnx: 1 missing \(to_v.weight\); 1 of another shape \(to_q.weight .16, 32. "
    ):
        check_names({"to_q.weight": (16, 32), "to_k.weight": (8, 16)}, wanted, where="d.onnx")


@pytest.mark.parametrize("frames", [15, MAX_FRAMES + 2])
def test_an_odd_window_and_one_beyond_the_longest_are_refused_where_the_graph_runs(model, path, frames):
    with pytest.raises(DemonError, match=rf"does not take hidden_states \[1, {frames}, 64\]") as raised:
        OnnxModel(path)(inputs(model, 1, frames, 4))
    assert raised.value.code == "E_ONNX"


def test_an_odd_window_is_refused_before_an_engine_is_built():
    with pytest.raises(DemonError, match="frames is 32 / 75 / 100; 75 is not a multiple of 2"):
        decoder_axes(Span(1, 1, 4), Span(32, 75, 100), Span(4, 8, 16))
    with pytest.raises(DemonError, match=r"E_FIELD: 4 / 2 / 8 is not a span"):
        Span(4, 2, 8)


@pytest.mark.parametrize("frames", [121, 20000])
def test_what_cannot_be_exported_is_refused_at_once(model, tmp_path, frames):
    with pytest.raises(DemonError, match=f"E_FIELD: max_frames is {frames}"):
        export_decoder(model, tmp_path / "d.onnx", max_frames=frames)
    assert list(tmp_path.iterdir()) == []


def test_a_bfloat16_vae_is_refused(vae, tmp_path):
    for export in (export_vae_encoder, export_vae_decoder):
        with pytest.raises(DemonError, match="E_DTYPE"):
            export(vae, tmp_path / "v.onnx", dtype=torch.bfloat16)


def test_a_folder_that_is_not_there_is_said_so(path, tmp_path):
    with pytest.raises(DemonError, match="E_OUTPUT"):
        save_graph(onnx_ir.load(path), tmp_path / "nowhere" / "d.onnx")


def test_weights_in_a_file_beside_the_model_are_the_same_model(model, outside):
    weights = sum(part.nbytes for part in model.parameters())
    assert outside.stat().st_size < weights / 2 < outside.with_name("outside.onnx.data").stat().st_size
    assert agreement(outside, eager(model), [inputs(model, 2, 16, 5)])["velocity"] < EXACT
    assert sorted(file.name for file in outside.parent.glob("*outside*")) == ["outside.onnx", "outside.onnx.data"]


def test_writing_a_model_whole_takes_away_the_weights_that_lay_beside_the_old_one(path, copied):
    save_graph(onnx_ir.load(path), copied)
    assert [file.name for file in copied.parent.iterdir()] == [copied.name]
    read_model(copied)


def test_the_hash_is_of_the_weights_too_and_not_of_the_place(outside, copied):
    expected = model_hash(outside)
    assert model_hash(copied) == expected
    data = copied.with_name(copied.name + ".data")
    changed = bytearray(data.read_bytes())
    changed[len(changed) // 2] ^= 1
    data.write_bytes(changed)
    assert model_hash(copied) != expected


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda model, data: data.unlink(), r"outside\.onnx\.data, which is missing; export it again"),
        (lambda model, data: truncated(data), r"outside\.onnx\.data, which has \d+ bytes of \d+; export it again"),
        (lambda model, data: truncated(model), "cannot be read as ONNX"),
        (lambda model, data: model.write_bytes(b""), "holds no ONNX model"),
        (lambda model, data: model.unlink(), "cannot be read as ONNX"),
    ],
    ids=["no weights", "half the weights", "half a model", "an empty model", "no model"],
)
def test_a_model_that_is_not_whole_is_named(copied, break_it, message):
    break_it(copied, copied.with_name(copied.name + ".data"))
    for use in (read_model, model_hash, initializers, OnnxModel):
        with pytest.raises(DemonError, match=message) as raised:
            use(copied)
        assert raised.value.code == "E_ONNX"


def test_weights_are_taken_from_beside_the_model_only(copied):
    model = onnx.load(copied, load_external_data=False)
    for part in model.graph.initializer:
        for entry in part.external_data:
            if entry.key == "location":
                entry.value = "../outside.onnx.data"
    onnx.save(model, copied)
    with pytest.raises(DemonError, match="not beside it"):
        read_model(copied)


def test_a_bfloat16_graph_says_that_onnxruntime_cannot_run_it(tmp_path):
    kind = onnx.TensorProto.BFLOAT16
    ends = [onnx.helper.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Sin", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)]), tmp_path / "b.onnx")
    with pytest.raises(DemonError, match="does not run in onnxruntime"):
        OnnxModel(tmp_path / "b.onnx")


def test_an_exported_vae_decodes_as_eager_does(vae, vae_decoder):
    codec = OobleckCodec(vae)
    cases = [{"latents": torch.randn(rows, LATENTS, frames)} for rows, frames in ((1, 1), (2, 5), (1, 30), (3, 17))]
    off = agreement(vae_decoder, lambda latents: codec.decode(latents.transpose(1, 2)), cases)
    assert off["audio"] < EXACT


def test_an_exported_vae_encodes_the_mean_and_the_deviation_that_eager_does(vae, folder):
    path = folder / "vae_encoder.onnx"
    export_vae_encoder(vae, path)

    def posterior(audio):
        return tuple(part.transpose(1, 2) for part in OobleckCodec(vae).posterior(audio))

    cases = [{"audio": torch.randn(rows, 2, frames * HOP)} for rows, frames in ((1, 1), (2, 5), (1, 30), (3, 17))]
    off = agreement(path, posterior, cases)
    assert set(off) == {"mean", "std"}
    assert max(off.values()) < EXACT
    assert any("weight_g" in name for name in vae.state_dict()), "the VAE itself keeps its weight norm"


def test_equal_weights_give_equal_files_without_a_trace_of_where_they_were_made(vae, vae_decoder, tmp_path):
    export_vae_decoder(vae, tmp_path / vae_decoder.name)
    assert model_hash(tmp_path / vae_decoder.name) == model_hash(vae_decoder)
    assert b".py" not in vae_decoder.read_bytes()
