# SPDX-License-Identifier: Apache-2.0
"""The decoder's own forward: diffusers' arithmetic to the bit, rows that are strangers to each other, adapters per row."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel
from torch import nn

from engine_server.model.checkpoint_files import ASSETS
from engine_server.model.dit import MOST_LENGTHS, DitForward
from engine_server.model.lora import AdapterBank

SIZES = {
    "small": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    # Like XL: attention width 64, hidden width 40, condition width 24.
    "xl": {
        "hidden_size": 40, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "encoder_hidden_size": 24,
    },
}  # fmt: skip
TOKENS = 13


def build(size="small", *, layers=2, seed=0):
    torch.manual_seed(seed)
    return AceStepTransformer1DModel(
        intermediate_size=48, num_hidden_layers=layers, sliding_window=6, **SIZES[size]
    ).eval()


def draw(model, rows, frames, *, tokens=TOKENS, seed=1):
    """x, t, context, states of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, frames, 64, generator=generator),
        torch.rand(rows, generator=generator),
        torch.randn(rows, frames, 128, generator=generator),
        torch.randn(rows, tokens, model.condition_embedder.in_features, generator=generator),
    )


def every_token(states):
    return torch.ones(states.shape[:2], dtype=torch.bool)


def ours(forward, x, t, context, states, mask=None, strengths=None):
    condition = forward.encode(states, every_token(states) if mask is None else mask, strengths)
    return forward(x, t, context, condition, strengths)


def theirs(model, x, t, context, states):
    return model(
        hidden_states=x, timestep=t, timestep_r=t, encoder_hidden_states=states, context_latents=context, return_dict=False
    )[0]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("frames", [2, 9, 14, 40, 41])
def test_the_forward_is_diffusers_own_bit_for_bit_when_nothing_is_padded(size, rows, frames):
    model = build(size)
    inputs = draw(model, rows, frames)
    assert torch.equal(ours(DitForward(model), *inputs), theirs(model, *inputs))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4])
def test_the_embedded_model_is_diffusers_own_bit_for_bit_too(rows):
    model = AceStepTransformer1DModel.from_pretrained(ASSETS / "embedded" / "transformer").eval()
    inputs = draw(model, rows, 140, tokens=96)
    assert torch.equal(ours(DitForward(model), *inputs), theirs(model, *inputs))


@torch.no_grad()
def test_lengths_and_batch_sizes_can_alternate_on_one_forward():
    model = build()
    forward = DitForward(model)
    for rows, frames in ((1, 20), (4, 41), (4, 20), (1, 20)):
        inputs = draw(model, rows, frames)
        assert torch.equal(ours(forward, *inputs), theirs(model, *inputs))


@torch.no_grad()
def test_a_session_of_many_lengths_remembers_the_tables_of_the_last_few_only():
    forward, inputs = DitForward(build()), draw(build(), 1, 60)
    before = ours(forward, *inputs)
    for frames in range(20, 44, 2):
        ours(forward, *draw(build(), 1, frames))
    assert len(forward._tables) == MOST_LENGTHS
    assert torch.equal(ours(forward, *inputs), before)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_a_padded_condition_gives_what_the_unpadded_one_gives(size):
    model = build(size)
    x, t, context, states = draw(model, 4, 40)
    padded = torch.cat([states, torch.full((4, 7, states.shape[-1]), 5.0)], dim=1)
    mask = torch.arange(TOKENS + 7).expand(4, -1) < TOKENS
    forward = DitForward(model)
    torch.testing.assert_close(
        ours(forward, x, t, context, padded, mask), ours(forward, x, t, context, states), atol=1e-6, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("rows", [4, 8])
def test_a_rows_bits_depend_on_neither_its_place_nor_its_neighbours(rows):
    model = build()
    bank = AdapterBank()
    bank.add(random_factors(model))
    forward = DitForward(model, bank)
    x, t, context, states = draw(model, rows, 41)
    mask = torch.arange(TOKENS).expand(rows, -1) < torch.arange(3, 3 + rows)[:, None]
    strengths = torch.linspace(0, 1, rows)[:, None]
    together = ours(forward, x, t, context, states, mask, strengths)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    moved = ours(forward, x[order], t[order], context[order], states[order], mask[order], strengths[order])
    assert torch.equal(moved, together[order])
    strangers = draw(model, rows, 41, seed=9)
    for own, other in zip((x, t, context, states), strangers, strict=True):
        other[0] = own[0]
    x, t, context, states = strangers
    among_strangers = ours(forward, x, t, context, states, mask, strengths)
    assert torch.equal(among_strangers[0], together[0])


@torch.no_grad()
def test_rows_of_conditions_that_were_encoded_apart_can_share_a_forward():
    model = build()
    forward = DitForward(model)
    x, t, context, states = draw(model, 4, 40)
    apart = [forward.encode(states[row : row + 1], every_token(states[:1])) for row in range(4)]
    condition = tuple(torch.cat(parts) for parts in zip(*apart, strict=True))
    assert [len(part) for part in condition] == [4, 4, 4]
    torch.testing.assert_close(
        forward(x, t, context, condition), ours(forward, x, t, context, states), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_rows_without_a_condition_stay_finite():
    """Rows that are only there to fill a fixed batch hold zeros, or a condition without tokens."""
    model = build()
    forward = DitForward(model)
    x, t, context, states = draw(model, 2, 20)
    assert bool(ours(forward, x, t, context, states, ~every_token(states)).isfinite().all())
    blank = tuple(torch.zeros_like(part) for part in forward.encode(states, every_token(states)))
    assert bool(forward(x, t, context, blank).isfinite().all())


@torch.no_grad()
def test_loading_other_weights_takes_effect_once_the_forward_is_told():
    model, other = build(), build(seed=7)
    forward = DitForward(model)
    inputs = draw(model, 2, 20)
    ours(forward, *inputs)
    model.load_state_dict(other.state_dict())
    forward.weights_changed()
    assert torch.equal(ours(forward, *inputs), theirs(other, *inputs))


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_diffusers_own(size):
    model = build(size)
    inputs = draw(model, 2, 21)
    with torch.no_grad():
        theirs(model, *inputs)
        ours(forward := DitForward(model), *inputs)
    gradients = []
    for output in (ours(forward, *inputs), theirs(model, *inputs)):
        model.zero_grad()
        output.square().mean().backward()
        gradients.append({name: part.grad.clone() for name, part in model.named_parameters()})
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=lambda text, name=name: f"{name}: {text}")


def test_a_forward_warmed_up_in_inference_mode_can_still_train():
    model = build()
    forward = DitForward(model)
    inputs = draw(model, 2, 20)
    with torch.inference_mode():
        expected = ours(forward, *inputs)
    output = ours(forward, *inputs)
    output.sum().backward()
    assert torch.equal(output.detach(), expected)


@torch.no_grad()
def test_a_bfloat16_model_takes_and_gives_float32_and_hears_every_noise_level():
    model = build()
    x, t, context, states = draw(model, 2, 20)
    exact = ours(DitForward(model), x, t, context, states)
    forward = DitForward(model.to(torch.bfloat16))
    rounded = ours(forward, x, t, context, states)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.03  # a few of bfloat16's roundings of 0.4 %
    near = torch.full((2,), 0.9545)
    assert float(near[0].bfloat16()) != float(near[0])
    assert not torch.equal(
        ours(forward, x, near, context, states), ours(forward, x, near.bfloat16().float(), context, states)
    )


def random_factors(model, *, only=None, seed=0):
    """Low-rank factors beside every Linear of a model, or one of them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(2, part.in_features, generator=generator) / part.in_features**0.5,
            torch.randn(part.out_features, 2, generator=generator) / 2,
        )
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and only in (None, name)
    }


LINEARS = [name for name, part in build(layers=1).named_modules() if isinstance(part, nn.Linear)]


@torch.no_grad()
@pytest.mark.parametrize("name", LINEARS)
def test_an_adapter_beside_any_linear_does_what_merging_it_would(name):
    model = build(layers=1)
    bank = AdapterBank()
    factors = random_factors(model, only=name)
    place = bank.add(factors)
    inputs = draw(model, 2, 20)
    plain = ours(DitForward(model), *inputs)
    adapted = ours(DitForward(model, bank), *inputs, strengths=bank.strengths({place: 0.5}).expand(2, -1))
    down, up = factors[name]
    model.get_submodule(name).weight.add_(up @ down, alpha=0.5)
    merged = ours(DitForward(model), *inputs)
    assert float((merged - plain).abs().max()) > 1e-5
    torch.testing.assert_close(adapted, merged, atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_strength_zero_is_no_adapter_to_the_bit_also_beside_a_row_that_has_one():
    model = build()
    bank = AdapterBank()
    bank.add(random_factors(model))
    forward = DitForward(model, bank)
    inputs = draw(model, 4, 20)
    plain = ours(DitForward(model), *inputs)
    assert torch.equal(ours(forward, *inputs), plain)
    assert torch.equal(ours(forward, *inputs, strengths=torch.zeros(4, 1)), plain)
    mixed = ours(forward, *inputs, strengths=torch.tensor([[0.0], [1.0], [0.0], [0.5]]))
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert not torch.equal(mixed[1], plain[1])


@torch.no_grad()
def test_another_adapter_in_the_bank_does_not_change_a_rows_bits():
    model = build()
    bank = AdapterBank()
    bank.add(random_factors(model))
    forward = DitForward(model, bank)
    inputs = draw(model, 4, 20)
    alone = ours(forward, *inputs, strengths=torch.full((4, 1), 0.7))
    second = bank.add(random_factors(model, seed=5))
    assert torch.equal(ours(forward, *inputs, strengths=torch.full((4, 1), 0.7)), alone)
    strengths = torch.tensor([[0.7, 0.0], [0.7, 0.3], [0.7, 0.0], [0.0, 1.0]])
    both = ours(forward, *inputs, strengths=strengths)
    assert torch.equal(both[[0, 2]], alone[[0, 2]])
    assert not torch.equal(both[1], alone[1])
    bank.remove(second)
    assert torch.equal(ours(forward, *inputs, strengths=strengths)[[0, 1, 2]], alone[[0, 1, 2]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_a_gpu_agrees_with_the_cpu(dtype, error):
    model = build()
    bank = AdapterBank()
    bank.add(random_factors(model))
    inputs, strengths = draw(model, 4, 41), torch.tensor([[0.0], [1.0], [0.0], [0.5]])
    expected = ours(DitForward(model, bank), *inputs, strengths=strengths)
    bank.to("cuda", dtype)
    moved = [part.cuda() for part in inputs]
    mask = torch.ones(4, TOKENS, dtype=torch.bool, device="cuda")
    got = ours(DitForward(model.to("cuda", dtype), bank), *moved, mask, strengths.cuda())
    assert float((got.cpu() - expected).norm() / expected.norm()) < error
