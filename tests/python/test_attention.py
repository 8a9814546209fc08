# SPDX-License-Identifier: Apache-2.0
"""Attention by blocks against the same under a bias: the same keys, gradients too, and rows that are strangers to each other."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import AceStepTransformer1DModel
from hypothesis import given
from hypothesis import strategies as st
from test_dit import draw, every_token

from engine_server.model.attention import (
    BLOCKS_FROM_TOKENS,
    BLOCKS_FROM_WINDOWS,
    attend,
    attend_by_blocks,
    band_bias,
    block_bias,
    key_bias,
    takes_blocks,
)
from engine_server.model.dit import DitForward, shape_tables

TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}
"""Sums of some dozens of float32 products, in two orders."""
WINDOW = 6


def queries_keys_values(tokens, *, rows=2, heads=4, groups=2, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, tokens, count, width, generator=generator).transpose(1, 2)
        for count in (heads, heads // groups, heads // groups)
    )


def both(parts, window, real):
    tokens, like = parts[0].shape[2], parts[0]
    whole = attend(*parts, band_bias(tokens, window, like, real=real), 0.25)
    by_blocks = attend_by_blocks(*parts, block_bias(tokens, window, like, real=real), 0.25)
    return whole[:, :real], by_blocks[:, :real]


@given(
    tokens=st.integers(1, 70),
    window=st.integers(1, 24),
    rows=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    fill=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_blocks_hear_the_keys_of_the_window_and_no_others(tokens, window, rows, groups, fill, seed):
    parts = queries_keys_values(tokens, rows=rows, groups=groups, seed=seed)
    whole, by_blocks = both(parts, window, max(1, tokens - fill))
    torch.testing.assert_close(by_blocks, whole, **TOLERANCE)


@given(tokens=st.integers(2, 40), window=st.integers(1, 9), place=st.integers(0, 39))
def test_a_query_hears_every_key_of_its_window_and_is_deaf_to_the_rest(tokens, window, place):
    """Each key's value is a unit vector of its own, so that the output spells out which keys were heard."""
    place %= tokens
    query, key, _ = queries_keys_values(tokens, rows=1, heads=1, groups=1)
    value = torch.eye(tokens)[None, None]
    heard = attend_by_blocks(query, key, value, block_bias(tokens, window, query, real=tokens), 0.25)[0, place] > 0
    assert heard.tolist() == [abs(other - place) <= window for other in range(tokens)]


def test_gradients_by_blocks_are_those_under_a_bias():
    gradients = []
    for which in (0, 1):
        parts = [part.clone().requires_grad_() for part in queries_keys_values(37)]
        both(parts, WINDOW, 37)[which].square().sum().backward()
        gradients.append([part.grad for part in parts])
    for whole, by_blocks in zip(*gradients, strict=True):
        assert float(whole.abs().max()) > 0
        torch.testing.assert_close(by_blocks, whole, atol=1e-5, rtol=1e-5)


def test_tokens_that_fill_up_are_heard_by_nobody():
    query, key, value = queries_keys_values(30)
    loud = value.clone()
    loud[:, :, 23:] = 1e6
    for bias, form in ((block_bias, attend_by_blocks), (band_bias, attend)):
        hidden = bias(30, WINDOW, query, real=23)
        assert torch.equal(form(query, key, loud, hidden, 0.25)[:, :23], form(query, key, value, hidden, 0.25)[:, :23])
    hidden = key_bias(30, query, real=23)
    assert torch.equal(attend(query, key, loud, hidden, 0.25), attend(query, key, value, hidden, 0.25))


def long_model():
    torch.manual_seed(0)
    return AceStepTransformer1DModel(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        sliding_window=WINDOW,
    ).eval()  # fmt: skip


def run(model, inputs):
    x, t, context, states = inputs
    forward = DitForward(model)
    return forward(x, t, context, forward.encode(states, every_token(states)))


def test_blocks_are_taken_where_a_sequence_is_long_and_has_many_windows_and_nowhere_else():
    assert not takes_blocks(BLOCKS_FROM_TOKENS - 1, WINDOW)
    assert takes_blocks(BLOCKS_FROM_TOKENS, WINDOW)
    assert not takes_blocks(BLOCKS_FROM_WINDOWS * 128 - 1, 128)
    assert takes_blocks(BLOCKS_FROM_WINDOWS * 128, 128)
    assert not takes_blocks(9999, 0)
    model = long_model()
    for tokens in (1, WINDOW + 1, WINDOW + 2, BLOCKS_FROM_TOKENS - 1, BLOCKS_FROM_TOKENS):
        tables = shape_tables(model, tokens, torch.zeros(()))
        assert (tables.blocks is not None) == (tokens == BLOCKS_FROM_TOKENS)
        assert (tables.band is not None) == (WINDOW + 1 < tokens < BLOCKS_FROM_TOKENS)


@torch.no_grad()
@pytest.mark.parametrize("frames", [640, 641, 1001])
def test_a_long_forward_stays_diffusers_own_within_rounding(frames):
    model = long_model()
    x, t, context, states = inputs = draw(model, 2, frames)
    theirs = model(
        hidden_states=x, timestep=t, timestep_r=t, encoder_hidden_states=states, context_latents=context, return_dict=False
    )[0]  # fmt: skip
    torch.testing.assert_close(run(model, inputs), theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_rows_bits_by_blocks_depend_on_neither_its_place_nor_its_neighbours():
    model = long_model()
    inputs = draw(model, 4, 645)
    together = run(model, inputs)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(run(model, tuple(part[order] for part in inputs)), together[order])
    mixed = draw(model, 4, 645, seed=9)
    for part, own in zip(mixed, inputs, strict=True):
        part[1] = own[1]
    assert torch.equal(run(model, mixed)[1], together[1])
