# SPDX-License-Identifier: Apache-2.0
"""FP8 Linears by torch: near float32, rows kept apart, LoRAs beside them, compiled, recorded, refused where they cannot run."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel
from hypothesis import given
from hypothesis import strategies as st
from test_backends import draw, run, tiny_transformer, with_row_of
from test_dit import random_factors
from test_graphs import Tape, Uncompiled
from torch import nn

from engine_server.model import fp8_linear
from engine_server.model.adapter_stack import COLUMNS_STEP
from engine_server.model.backends import make_decoder
from engine_server.model.checkpoint_files import ASSETS
from engine_server.model.dit import DitForward
from engine_server.model.forms import Form
from engine_server.model.fp8 import FP8, LARGEST, quantize
from engine_server.model.fp8_linear import ScaledLinear, fp8_blocks, product
from engine_server.model.graphs import GraphedVelocity
from engine_server.model.lora import AdapterBank
from engine_server.model.static_decoder import StaticDecoder
from shared_protocol.errors import DemonError

FIRST_FP8 = (8, 9)
NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < FIRST_FP8,
    reason="needs a CUDA GPU of compute capability 8.9 or later, as an H200",
)
EXACT, ADAPTED = Form(4, 40, 13), Form(4, 40, 13, COLUMNS_STEP)
FLIPPED = 0.01
"""What sums in another order may do to velocities: a last bit before a rounding to E4M3 is a sixteenth after it."""


def off(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def in_bfloat16(model):
    """A copy, as a checkpoint on a GPU has it."""
    return copy.deepcopy(model).bfloat16()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9))
def test_a_rows_scale_is_the_least_power_of_two_by_which_its_largest_fits(values):
    row = torch.tensor(values)
    rounded, scale = quantize(row)
    peak = float(row.abs().max())
    assert rounded.float().isfinite().all()
    if peak < 1e-35:
        assert scale == 1
        return
    assert torch.frexp(scale).mantissa == 0.5
    assert float(scale) * LARGEST / 2 * (1 - 1e-6) <= peak <= float(scale) * LARGEST


def test_a_row_is_rounded_alike_in_every_type_and_company():
    rows = (torch.randn(9, 70) * torch.logspace(-9, 9, 9)[:, None]).bfloat16()
    rows[4] = 0
    rounded, scales = quantize(rows)
    assert rounded.dtype == FP8
    assert scales[4] == 1
    wide = quantize(rows.float())
    assert torch.equal(rounded.float(), wide[0].float())
    assert torch.equal(scales, wide[1])
    for place in range(9):
        alone = quantize(rows[place])
        assert torch.equal(alone[0].float(), rounded[place].float())
        assert alone[1] == scales[place]


@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_what_is_not_finite_stays_so_in_its_row_and_in_no_other(value):
    rows = torch.ones(3, 16)
    rows[1, 2] = value
    out = ScaledLinear(nn.Linear(16, 16))(rows)
    assert out.isfinite().all(1).tolist() == [True, False, True]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.002), (torch.float16, 3e-4)])
def test_the_product_is_that_of_the_numbers_that_were_rounded_to(dtype, error):
    """In float64, scaled before: what torch multiplies in E4M3 and scales after. 16-bit results are rounded once more."""
    draw_ = torch.Generator().manual_seed(0)
    x = torch.randn(35, 384, generator=draw_) * torch.logspace(-2, 2, 35)[:, None]
    rows, row_scales = quantize(x)
    weight, weight_scales = quantize(torch.randn(96, 384, generator=draw_) * torch.logspace(-1, 1, 96)[:, None])
    exact = (rows.double() * row_scales[:, None]) @ (weight.double() * weight_scales[:, None]).T
    got = product(rows, row_scales[:, None], weight, weight_scales[None], dtype)
    assert got.dtype == dtype
    assert off(got, exact) < error


@torch.no_grad()
def test_a_linear_adds_its_bias_and_is_off_by_the_rounding_to_e4m3():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32), torch.randn(5, 7, 64)
    rounded = ScaledLinear(linear)
    assert 0.01 < off(rounded(x), linear(x)) < 0.05
    assert torch.equal(rounded(torch.zeros(2, 64)), linear.bias.expand(2, -1))


@torch.no_grad()
def test_a_linear_gives_a_token_the_same_bits_in_every_company():
    torch.manual_seed(0)
    linear, tokens = ScaledLinear(nn.Linear(48, 32)), torch.randn(9, 48)
    together = linear(tokens)
    for place in range(9):
        alone = tokens[place : place + 1]
        assert torch.equal(linear(alone)[0], together[place])
        assert torch.equal(linear(torch.cat([1e4 * torch.randn(3, 48), alone]))[3], together[place])


@torch.no_grad()
def test_rows_are_handed_over_in_one_piece_however_they_lie(monkeypatch):
    """A batch of one comes channels-first, and a GPU refuses that."""
    seen = []

    def watched(rows, *rest):
        seen.append(rows.is_contiguous())
        return product(rows, *rest)

    monkeypatch.setattr(fp8_linear, "product", watched)
    linear, x = ScaledLinear(nn.Linear(48, 32)), torch.randn(1, 9, 48)
    assert torch.equal(linear(x.transpose(1, 2).contiguous().transpose(1, 2)), linear(x))
    assert seen == [True, True]


@torch.no_grad()
def test_fp8_stays_within_five_percent_of_float32_on_the_embedded_model():
    """Relative L2 of the velocity over all noise levels; 2.7 % was measured in a float32 trunk, 2.9 % in bfloat16."""
    model = AceStepTransformer1DModel.from_pretrained(ASSETS / "embedded" / "transformer").eval()
    inputs = draw(model, 4, 140, tokens=96)
    exact = run(make_decoder(model, backend="eager"), inputs)
    for trunk in (model, in_bfloat16(model)):
        rounded = run(make_decoder(trunk, backend="eager", quantization="fp8"), inputs)
        error = (rounded - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        assert 0.005 < float(error.max()) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("trunk", [torch.float32, torch.bfloat16], ids=str)
def test_a_rows_bits_do_not_depend_on_loud_neighbours_or_its_place(trunk):
    model = tiny_transformer().to(trunk)
    decoder = make_decoder(model, backend="eager", quantization="fp8")
    inputs = draw(model, 4, 41)
    together = run(decoder, inputs)
    loud = tuple(100 * part for part in draw(model, 4, 41, seed=9))
    assert torch.equal(run(decoder, with_row_of(inputs, loud, 2))[2], together[2])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(run(decoder, tuple(part[order] for part in inputs)), together[order])


@torch.no_grad()
@pytest.mark.parametrize("trunk", [torch.float32, torch.bfloat16], ids=str)
def test_the_recipe_says_what_computes_in_fp8_and_the_given_model_stays_as_it_was(trunk):
    model = tiny_transformer().to(trunk)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    made = fp8_blocks(model)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    linears = [part for part in made.layers.modules() if isinstance(part, nn.Linear | ScaledLinear)]
    assert len(linears) == 11
    assert all(isinstance(part, ScaledLinear) for part in linears)
    for embed in (made.time_embed, made.time_embed_r):
        assert {part.dtype for part in embed.parameters()} == {torch.float32}
    assert {part.dtype for part in made.proj_out_conv.parameters()} == {torch.float32}
    assert made.condition_embedder.weight is model.condition_embedder.weight
    assert made.proj_in_conv.weight is model.proj_in_conv.weight


@torch.no_grad()
@pytest.mark.parametrize("trunk", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_work_beside_fp8_linears_and_change_their_own_rows_only(trunk):
    model = tiny_transformer().to(trunk)
    bank = AdapterBank()
    bank.to("cpu", trunk)
    bank.add(random_factors(model, seed=1))
    decoder = make_decoder(model, backend="eager", adapters=bank, quantization="fp8")
    inputs = draw(model, 4, 20)
    plain = run(decoder, inputs)
    assert torch.equal(run(decoder, inputs, torch.zeros(4, 1)), plain)
    mixed = run(decoder, inputs, torch.tensor([[0.0], [1.0], [0.0], [0.0]]))
    assert torch.equal(mixed[[0, 2, 3]], plain[[0, 2, 3]])
    exact = DitForward(tiny_transformer(), bank)
    bank.to("cpu", torch.float32)
    strengths = torch.ones(4, 1)
    heard = run(exact, inputs, strengths) - run(exact, inputs)
    bank.to("cpu", trunk)
    assert off(run(decoder, inputs, strengths) - plain, heard) < 0.5
    assert off(plain, run(exact, inputs)) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("trunk", [torch.float32, torch.bfloat16], ids=str)
def test_recorded_forwards_are_eagers_and_hear_adapters_without_quantising_again(trunk):
    model = tiny_transformer().to(trunk)
    bank = AdapterBank()
    bank.to("cpu", trunk)
    made, tape = fp8_blocks(model), Tape()
    before = {name: part.clone() for name, part in made.state_dict().items()}
    decoder = StaticDecoder(made, bank, run=GraphedVelocity(Uncompiled(), tape))
    decoder.warm_up([EXACT, ADAPTED])
    eager, inputs = make_decoder(model, backend="eager", adapters=bank, quantization="fp8"), draw(model, 4, 40)
    assert torch.equal(run(decoder, inputs), run(eager, inputs))
    bank.add(random_factors(model, seed=1))
    for strength in (0.3, 1.0):
        strengths = torch.tensor([[0.0], [1.0], [strength], [0.0]])
        adapted = run(decoder, inputs, strengths)
        assert off(adapted, run(eager, inputs, strengths)) < FLIPPED
        assert off(adapted[1], run(eager, inputs)[1]) > 2 * FLIPPED
    assert tape.recorded == 2
    assert all(torch.equal(part.float(), before[name].float()) for name, part in made.state_dict().items())


@torch.no_grad()
def test_a_compiled_fp8_decoder_is_eagers_and_keeps_rows_apart():
    model = tiny_transformer()
    bank = AdapterBank()
    bank.add(random_factors(model, seed=1))
    eager, compiled = (
        make_decoder(model, backend=name, adapters=bank, quantization="fp8") for name in ("eager", "compile")
    )
    inputs, strengths = draw(model, 4, 40), torch.tensor([[0.0], [1.0], [0.5], [0.0]])
    together = run(compiled, inputs, strengths)
    assert off(together, run(eager, inputs, strengths)) < FLIPPED
    assert off(together, run(DitForward(model, bank), inputs, strengths)) > FLIPPED
    loud = tuple(100 * part for part in draw(model, 4, 40, seed=9))
    assert torch.equal(run(compiled, with_row_of(inputs, loud, 1), strengths)[1], together[1])


def code_and_words(model, **options):
    with pytest.raises(DemonError) as caught:
        make_decoder(model, backend="eager", quantization="fp8", **options)
    return caught.value.code, str(caught.value)


def test_widths_that_no_gpu_multiplies_in_fp8_are_named():
    model = AceStepTransformer1DModel(
        hidden_size=40, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16
    )  # fmt: skip
    code, words = code_and_words(model)
    assert code == "E_BACKEND"
    assert "multiples of 16, and layers.0.self_attn.to_q has 64 x 40; load it without quantization" in words


def test_a_device_that_does_not_multiply_e4m3_is_told_at_once_with_what_to_do(monkeypatch):
    def as_before_ada(*_, **__):
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    monkeypatch.setattr(torch, "_scaled_mm", as_before_ada)
    code, words = code_and_words(tiny_transformer())
    assert code == "E_BACKEND"
    assert "fp8 does not run on cpu with float32 (torch._scaled_mm is only supported" in words
    assert "it needs a GPU of compute capability 8.9 or later and dtype bfloat16; load it without quantization" in words


def test_a_full_memory_is_not_taken_for_a_device_without_fp8(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "_scaled_mm", full)
    with pytest.raises(torch.OutOfMemoryError):
        fp8_blocks(tiny_transformer())


@NEEDS_GPU
@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_on_a_gpu_fp8_is_what_the_cpu_computes_and_rows_stay_apart(backend):
    model = in_bfloat16(tiny_transformer())
    bank = AdapterBank()
    bank.to("cpu", torch.bfloat16)
    bank.add(random_factors(model, seed=1))
    inputs, strengths = draw(model, 4, 40), torch.linspace(0, 1, 4)[:, None]
    expected = run(make_decoder(model, backend="eager", adapters=bank, quantization="fp8"), inputs, strengths)
    bank.to("cuda", torch.bfloat16)
    decoder = make_decoder(copy.deepcopy(model).cuda(), backend=backend, adapters=bank, quantization="fp8")

    def on_gpu(given_):
        x, t, context, states, by_row = (part.cuda() for part in (*given_, strengths))
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device="cuda")
        # One by one, as a ring encodes them: a row's keys and values then come of a product of their own.
        encoded = [decoder.encode(*row) for row in zip(states.split(1), mask.split(1), by_row.split(1), strict=True)]
        condition = tuple(torch.cat(parts) for parts in zip(*encoded, strict=True))
        return decoder(x, t, context, condition, by_row).cpu()

    together = on_gpu(inputs)
    assert off(together, expected) < 0.03
    loud = tuple(100 * part for part in draw(model, 4, 40, seed=9))
    assert torch.equal(on_gpu(with_row_of(inputs, loud, 1))[1], together[1])
