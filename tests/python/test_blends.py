# SPDX-License-Identifier: Apache-2.0
"""Blends of conditions, latents and hints: exact ends, masks that fit, weights that mean something."""

from __future__ import annotations

import pytest
import torch

from engine_server.model.blends import average, blend, lerp, weighted_average
from engine_server.model.conditioning import Condition, pad_condition
from shared_protocol.errors import DemonError


def random_condition(tokens, seed) -> Condition:
    states = torch.randn(1, tokens, 4, generator=torch.Generator().manual_seed(seed))
    return Condition(states, torch.ones(1, tokens, dtype=torch.bool))


def test_a_lerp_follows_its_curve_and_its_ends_are_exact():
    a, b = torch.randn(5, 3) * 1e6, torch.randn(5, 3)
    b[0] = a[1] = torch.nan  # an end is selected, the other one not multiplied by 0
    mixed = lerp(a, b, [0.0, 1.0, 0.5, 0.25, 1.0])
    assert torch.equal(mixed[0], a[0])
    assert torch.equal(mixed[[1, 4]], b[[1, 4]])
    assert torch.equal(mixed[3], 0.75 * a[3] + 0.25 * b[3])
    assert torch.equal(lerp(a[None], b[None], 0.25)[0, 3], mixed[3])


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), [0.5] * 4, "half"])
def test_a_weight_that_cannot_be_followed_is_refused(weight):
    with pytest.raises(DemonError, match="how much"):
        lerp(torch.zeros(5, 3), torch.ones(5, 3), weight, name="how much")


def test_a_blend_counts_what_either_prompt_counts_and_ends_on_each():
    a, b = random_condition(3, 0), pad_condition(random_condition(5, 1), 8)
    assert blend(a, b, 0.0) is a
    assert blend(a, b, 1.0) is b
    mixed = blend(a, b, 0.25)
    assert mixed.mask.tolist() == [[True] * 5 + [False] * 3]
    assert torch.equal(mixed.states[:, :3], 0.75 * a.states + 0.25 * b.states[:, :3])
    assert torch.equal(mixed.states[:, 3:], 0.25 * b.states[:, 3:])
    assert torch.equal(blend(b, a, 0.75).states, mixed.states)


@pytest.mark.parametrize("tokens", [2, 4, 6])
def test_an_average_keeps_the_length_and_mask_of_the_first(tokens):
    a, b = pad_condition(random_condition(3, 0), 4), random_condition(tokens, 1)
    mixed = average(a, b, 0.5)
    assert torch.equal(mixed.mask, a.mask)
    kept = min(4, tokens)
    assert torch.equal(mixed.states[:, :kept], 0.5 * a.states[:, :kept] + 0.5 * b.states[:, :kept])
    assert torch.equal(mixed.states[:, kept:], 0.5 * a.states[:, kept:])
    assert torch.equal(average(a, b, 0.0).states, a.states)
    assert torch.equal(average(a, b, 1.0).states[:, :kept], b.states[:, :kept])


def test_weights_of_an_average_of_many_are_relative():
    conditions = [random_condition(3, seed) for seed in range(3)]
    expected = sum(share * one.states for share, one in zip((0.5, 0.25, 0.25), conditions, strict=True))
    torch.testing.assert_close(weighted_average(conditions, [2, 1, 1]).states, expected)
    assert torch.equal(weighted_average(conditions, [0, 7, 0]).states, conditions[1].states)


@pytest.mark.parametrize(
    ("lengths", "weights"),
    [([], []), ([3, 3], [1.0]), ([3, 4], [1, 1]), ([3, 3], [1, -0.5]), ([3, 3], [0, 0]), ([3, 3], [1, float("nan")])],
)
def test_an_average_that_has_no_meaning_is_refused(lengths, weights):
    with pytest.raises(DemonError, match="E_FIELD"):
        weighted_average([random_condition(tokens, 0) for tokens in lengths], weights)
