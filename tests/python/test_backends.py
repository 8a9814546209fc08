# SPDX-License-Identifier: Apache-2.0
"""Backends by name, the compiled decoder and the int8 one: close to eager float32, and rows as independent as there."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel

from engine_server.model.backends import make_decoder
from engine_server.model.checkpoint_files import ASSETS
from engine_server.model.compiled import CompiledVelocity
from engine_server.model.int8 import Int8Linear, quantize_blocks
from engine_server.model.lora import AdapterBank
from engine_server.model.static_decoder import StaticDecoder
from shared_protocol.errors import DemonError

CPU = torch.device("cpu")


def tiny_transformer():
    """Heads of 64 bytes: with shorter ones, torch's attention on the CPU depends on where in memory a row lies."""
    torch.manual_seed(0)
    return AceStepTransformer1DModel(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        sliding_window=6,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def embedded():
    return AceStepTransformer1DModel.from_pretrained(ASSETS / "embedded" / "transformer").eval()


def draw(model, rows, frames, *, tokens=13, seed=1):
    """x, t, context, states of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, frames, 64, generator=generator),
        torch.rand(rows, generator=generator),
        torch.randn(rows, frames, 128, generator=generator),
        torch.randn(rows, tokens, model.condition_embedder.in_features, generator=generator),
    )


def run(decoder, inputs, strengths=None):
    x, t, context, states = inputs
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    return decoder(x, t, context, decoder.encode(states, mask, strengths), strengths)


def with_row_of(inputs, others, row):
    """`others`, but for one row of `inputs`."""
    mixed = tuple(part.clone() for part in others)
    for part, own in zip(mixed, inputs, strict=True):
        part[row] = own[row]
    return mixed


def test_unknown_names_are_refused_with_the_ones_that_there_are():
    with pytest.raises(ValueError, match="backend: 'fast' is not one of eager, compile, tensorrt"):
        make_decoder(tiny_transformer(), backend="fast")
    with pytest.raises(ValueError, match="'auto' is not one of"):
        make_decoder(tiny_transformer(), backend="auto")
    with pytest.raises(ValueError, match="quantization: 'int3' is not one of int8, fp8, or None"):
        make_decoder(tiny_transformer(), backend="eager", quantization="int3")


@pytest.mark.parametrize(
    ("backend", "quantization"), [("tensorrt", None), ("tensorrt", "int8"), ("tensorrt", "fp8"), ("compile", "int8")]
)
def test_what_cannot_run_says_so_instead_of_running_something_else(backend, quantization):
    with pytest.raises(DemonError) as caught:
        make_decoder(tiny_transformer(), backend=backend, quantization=quantization)
    assert caught.value.code == "E_BACKEND"


@torch.no_grad()
def test_a_compiled_decoder_is_close_to_eager_and_keeps_rows_apart():
    model = tiny_transformer()
    bank = AdapterBank()
    name = "layers.0.self_attn.to_q"
    bank.add({name: (torch.randn(2, 32) / 6, torch.randn(64, 2) / 2)})
    eager = make_decoder(model, backend="eager", adapters=bank)
    compiled = make_decoder(model, backend="compile", adapters=bank)
    inputs, strengths = draw(model, 4, 40), torch.tensor([[0.0], [1.0], [0.5], [0.0]])
    together = run(compiled, inputs, strengths)
    torch.testing.assert_close(together, run(eager, inputs, strengths), atol=1e-5, rtol=1e-5)
    mixed = with_row_of(inputs, draw(model, 4, 40, seed=9), 1)
    assert torch.equal(run(compiled, mixed, strengths)[1], together[1])
    order = torch.tensor([2, 0, 3, 1])
    moved = run(compiled, tuple(part[order] for part in inputs), strengths[order])
    # Not to the bit: compiled loops are split between threads without regard to rows.
    torch.testing.assert_close(moved, together[order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_decoder_that_cannot_be_compiled_raises_and_does_not_run_eager():
    def unsupported(model, frames, *_):
        torch._dynamo.graph_break()
        return frames[..., 128:]

    model = tiny_transformer()
    decoder = StaticDecoder(model, run=CompiledVelocity(unsupported))
    with pytest.raises(DemonError, match="could not be compiled") as caught:
        run(decoder, draw(model, 2, 20))
    assert caught.value.code == "E_BACKEND"


@torch.no_grad()
def test_int8_stays_within_four_percent_of_float32_on_the_embedded_model(embedded):
    """Relative L2 of the velocity over all noise levels; 2.1 % was measured, most of it from 7-bit weights."""
    inputs = draw(embedded, 4, 140, tokens=96)
    exact = run(make_decoder(embedded, backend="eager"), inputs)
    rounded = run(make_decoder(embedded, backend="eager", quantization="int8"), inputs)
    error = (rounded - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert 0 < float(error.max()) < 0.04


@torch.no_grad()
def test_an_int8_rows_bits_do_not_depend_on_loud_neighbours_or_its_place():
    model = tiny_transformer()
    decoder = make_decoder(model, backend="eager", quantization="int8")
    inputs = draw(model, 4, 41)
    together = run(decoder, inputs)
    loud = tuple(100 * part for part in draw(model, 4, 41, seed=9))
    assert torch.equal(run(decoder, with_row_of(inputs, loud, 2))[2], together[2])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(run(decoder, tuple(part[order] for part in inputs)), together[order])


@torch.no_grad()
def test_an_int8_linear_gives_a_token_the_same_bits_in_every_company():
    torch.manual_seed(0)
    linear = Int8Linear(torch.nn.Linear(48, 32))
    tokens = torch.randn(9, 48)
    tokens[4] = 0
    together = linear(tokens)
    for place in range(9):
        assert torch.equal(linear(tokens[place : place + 1])[0], together[place])
        assert torch.equal(linear(torch.cat([1e4 * torch.randn(3, 48), tokens[place : place + 1]]))[3], together[place])
    assert torch.equal(together[4], linear.bias)


@torch.no_grad()
def test_int8_sums_do_not_saturate_where_weights_and_activations_are_largest():
    linear = torch.nn.Linear(256, 2, bias=False)
    linear.weight.fill_(1.0)
    linear.weight[1] = -1.0
    out = Int8Linear(linear)(torch.stack([torch.ones(256), -torch.ones(256)]))
    torch.testing.assert_close(out, torch.tensor([[256.0, -256.0], [-256.0, 256.0]]))


@torch.no_grad()
def test_quantising_leaves_the_given_transformer_as_it_was_and_copies_nothing_else():
    model = tiny_transformer()
    inputs = draw(model, 2, 20)
    before = run(make_decoder(model, backend="eager"), inputs)
    quantised = quantize_blocks(model)
    assert torch.equal(run(make_decoder(model, backend="eager"), inputs), before)
    linears = [part for part in quantised.layers.modules() if isinstance(part, torch.nn.Linear | Int8Linear)]
    assert len(linears) == 11
    assert all(isinstance(part, Int8Linear) for part in linears)
    assert quantised.time_embed.linear_1.weight is model.time_embed.linear_1.weight
    assert quantised.proj_in_conv.weight is model.proj_in_conv.weight


@torch.no_grad()
def test_adapters_work_beside_int8_linears():
    model = tiny_transformer()
    bank = AdapterBank()
    bank.add({"layers.0.mlp.up_proj": (torch.randn(2, 32) / 6, torch.randn(48, 2) / 2)})
    decoder = make_decoder(model, backend="eager", adapters=bank, quantization="int8")
    inputs = draw(model, 4, 20)
    plain = run(decoder, inputs)
    assert torch.equal(run(decoder, inputs, torch.zeros(4, 1)), plain)
    mixed = run(decoder, inputs, torch.tensor([[0.0], [1.0], [0.0], [0.0]]))
    assert torch.equal(mixed[[0, 2, 3]], plain[[0, 2, 3]])
    assert not torch.equal(mixed[1], plain[1])
