# SPDX-License-Identifier: Apache-2.0
"""Curves from whatever a caller has: layout, resampling, and what is rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_server.diffusion.curves import canonical_curve, curve_shape, resample_aligned, resample_half_sample

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "sampler" / "normalize_curve.npz")
lengths = st.integers(1, 60)


@pytest.mark.parametrize("name", ["t0", "t1", "t2", "t3"])
def test_arrays_take_the_golden_layout(name):
    for value in (GOLDEN[f"in_{name}"], torch.from_numpy(GOLDEN[f"in_{name}"])):
        np.testing.assert_array_equal(curve_shape(value), GOLDEN[f"out_{name}"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("scalar", 0.7), ("scalar", np.float64(0.7)), ("scalar", np.float32(0.7)), ("int", 2), ("bool", True)],
)
def test_numbers_take_the_golden_layout_in_float32(name, value):
    curve = curve_shape(value)
    assert curve.dtype == torch.float32
    np.testing.assert_array_equal(curve, GOLDEN[f"out_{name}"])


def test_arrays_keep_their_dtype_in_the_layout_and_become_float32_canonically():
    assert curve_shape(torch.zeros(4, dtype=torch.float64)).dtype == torch.float64
    assert canonical_curve(np.zeros(4), 4, name="c").dtype == torch.float32
    assert canonical_curve([1, 2], 2, name="c").flatten().tolist() == [1.0, 2.0]
    assert canonical_curve(np.bool_(True), 2, name="c").item() == 1.0


def test_three_dimensions_act_per_channel_and_four_are_rejected():
    assert canonical_curve(torch.zeros(1, 4, 64), 4, name="c").shape == (1, 4, 64)
    with pytest.raises(ValueError, match="at most 3 dimensions, not 4"):
        curve_shape(torch.zeros(1, 1, 4, 1))


@pytest.mark.parametrize(
    "value",
    [
        [0.0] * 3,
        torch.zeros(2, 4),
        [],
        float("nan"),
        1e39,
        2.0,
        torch.zeros(1, 1, 4, 1),
        "loud",
        [[1.0], [1.0, 2.0]],
        1j,
    ],
)
def test_what_is_not_one_curve_in_range_is_rejected_by_name(value):
    with pytest.raises(ValueError, match="depth"):
        canonical_curve(value, 4, name="depth", lo=0.0, hi=1.0)


def test_a_drawn_curve_keeps_its_ends_when_it_is_stretched():
    stretched = canonical_curve([0.0, 1.0, 0.5], 9, name="c", resample=True).flatten()
    assert stretched.tolist() == [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5]
    assert canonical_curve([0.25, 1.0, 0.5], 1, name="c", resample=True).flatten().tolist() == [0.25]


@given(given_length=lengths, frames=lengths, seed=st.integers(0, 99))
def test_resampling_equals_linear_interpolation_at_the_rules_positions(given_length, frames, seed):
    values = np.random.default_rng(seed).standard_normal(given_length)
    curve = torch.from_numpy(values)[None, :, None]
    half_sample = (np.arange(frames) + 0.5) * given_length / frames - 0.5  # np.interp holds the ends
    aligned = np.arange(frames) * (given_length - 1) / max(frames - 1, 1)
    for resample, positions in ((resample_half_sample, half_sample), (resample_aligned, aligned)):
        expected = np.interp(positions, np.arange(given_length), values)
        np.testing.assert_allclose(resample(curve, frames)[0, :, 0], expected, rtol=0, atol=1e-12)


@given(given_length=lengths, frames=lengths, value=st.floats(-4, 4, width=32), seed=st.integers(0, 99))
def test_resampling_keeps_the_bits_of_a_constant_and_of_a_curve_of_that_length(given_length, frames, value, seed):
    constant = torch.full((1, given_length, 1), value)
    drawn = torch.randn(1, frames, 1, generator=torch.Generator().manual_seed(seed))
    for resample in (resample_half_sample, resample_aligned):
        assert (resample(constant, frames) == value).all()
        assert torch.equal(resample(drawn, frames), drawn)
