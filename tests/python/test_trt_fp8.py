# SPDX-License-Identifier: Apache-2.0
"""FP8 in torch: every number becomes the nearest that E4M3 has, in every type the same."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine_server.model.fp8 import FP8, LARGEST, quantize
from trt_engines.fp8 import HEADROOM, Fp8Linear, exponent, rounded, widened

ALL = torch.arange(256, dtype=torch.uint8).view(FP8).float()
NUMBERS = ALL[ALL.isfinite()].unique()


def nearest(x):
    """By looking at all of them."""
    return NUMBERS[(x[:, None] - NUMBERS).abs().argmin(1)]


def test_a_number_becomes_the_nearest_that_there_is():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 3, 2000)
    assert torch.equal(rounded(x, 1.0), nearest(x))
    assert torch.equal(rounded(x, 0.25), nearest(4 * x) / 4)


def test_ties_go_to_the_even_number_and_what_is_too_large_to_the_largest():
    given_, expected = [1.0625, 1.1875, 448.0, 465.0, 1e6, -1e30, 0.0], [1.0, 1.25, 448.0, 448.0, 448.0, -448.0, 0.0]
    assert rounded(torch.tensor(given_), 1.0).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_same_numbers_come_out_in_every_type(dtype):
    """So an engine's kernels, which scale after multiplying, and eager, which does before, multiply the same numbers."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1)).mul(3).to(dtype)
    for scale in (2.0**-6, 2.0**-5, 1.0):
        assert torch.equal(rounded(x, scale).float(), rounded(x.float(), scale))


@given(st.floats(1e-30, 1e30))
def test_the_scale_is_the_least_by_which_the_largest_fits(largest):
    scale = 2.0 ** exponent(largest)
    assert scale * LARGEST / 2 <= largest <= scale * LARGEST


def test_every_channel_of_a_weight_has_its_own_scale():
    weight = torch.randn(6, 400, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[1e-3], [1], [50], [1], [1], [0]]
    )
    stored, scales = quantize(weight)
    assert stored.dtype == FP8
    assert scales[-1] == 1.0
    assert all(math.frexp(scale)[0] == 0.5 for scale in scales.tolist()), "powers of two"
    assert torch.equal(
        stored.float() * scales[:, None],
        torch.stack([rounded(row, float(s)) for row, s in zip(weight, scales, strict=True)]),
    )
    error = (widened(stored, scales) - weight).norm(dim=1)[:-1] / weight.norm(dim=1)[:-1]
    assert float(error.max()) < 2**-5, "half a step of 2^-3 at most, and less on average"
    assert not widened(stored, scales)[-1].any()


def test_a_linear_is_the_product_of_the_rounded_numbers():
    torch.manual_seed(3)
    linear, x = nn.Linear(64, 32).requires_grad_(False), torch.randn(5, 7, 64)
    quantized = Fp8Linear(linear, torch.float32, float(x.abs().max()))
    scale = 2.0 ** exponent(HEADROOM * float(x.abs().max()))
    weight = widened(*quantize(linear.weight))
    torch.testing.assert_close(quantized(x), rounded(x, scale) @ weight.T + linear.bias)
    error = float((quantized(x) - linear(x)).norm() / linear(x).norm())
    assert 0.005 < error < 0.06


def test_inputs_up_to_twice_as_large_as_calibrated_are_not_cut_off():
    quantized = Fp8Linear(nn.Linear(8, 8, bias=False), torch.float32, 3.7)
    with torch.no_grad():
        quantized.weight.copy_(torch.eye(8).to(FP8))
        quantized.weight_scale.fill_(1.0)
    x = torch.full((1, 8), 3.7 * HEADROOM)
    torch.testing.assert_close(quantized(x), x, rtol=2**-4, atol=0)
