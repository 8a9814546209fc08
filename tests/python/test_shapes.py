# SPDX-License-Identifier: Apache-2.0
"""Drawn curves, masks and channel gain, against golden vectors and at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_server.diffusion.gain import GainEntry, channel_gain
from engine_server.diffusion.shapes import combine, constant, invert_mask, ramp, temporal_mask, wave

FOLDER = Path(__file__).parents[1] / "golden" / "sampler"
NODES = np.load(FOLDER / "curve_nodes.npz")
GAIN = np.load(FOLDER / "channel_gain.npz")


@pytest.mark.parametrize("kind", ["sine", "square", "pulse"])
def test_waves_match_the_golden_vectors(kind):
    drawn = wave(kind, period=7, length=40, amplitude=0.5, offset=0.25)
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn, NODES[f"wave_{kind}"], rtol=0, atol=1e-6)


def test_a_square_falls_and_a_pulse_peaks_at_half_a_period():
    assert wave("square", period=4, length=5).tolist() == [1, 1, -1, -1, 1]
    assert wave("pulse", period=4, length=5).tolist() == [0, 0.5, 1, 0.5, 0]


def test_a_long_wave_repeats_exactly():
    drawn = wave("sine", period=150, length=15000).view(100, 150)
    assert torch.equal(drawn, drawn[:1].expand(100, 150))


def test_a_ramp_matches_the_golden_vector_and_reaches_both_ends():
    np.testing.assert_allclose(ramp(0.3, 1.0, 17), NODES["ramp"], rtol=0, atol=1e-6)
    assert ramp(0, 1, 1500)[[0, -1]].tolist() == [0, 1]
    assert ramp(0.5, 1, 1).tolist() == [0.5]
    assert constant(0.25, 3).tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("operation", "with_curve", "with_number"),
    [
        ("add", [3, 3], [2, 5]),
        ("multiply", [2, -4], [1, 4]),
        ("min", [1, -1], [1, 1]),
        ("max", [2, 4], [1, 4]),
        ("lerp", [1.25, 2.75], [1, 3.25]),
    ],
)
def test_curves_combine_value_by_value_and_with_a_number(operation, with_curve, with_number):
    a, b = [1.0, 4.0], [2.0, -1.0]
    assert combine(operation, a, b, lerp_t=0.25).tolist() == with_curve
    assert combine(operation, a, lerp_t=0.25).tolist() == with_number


@pytest.mark.parametrize("frames", [16, 17])
def test_a_temporal_mask_matches_the_golden_vectors(frames):
    np.testing.assert_allclose(
        temporal_mask(NODES["mask_in"], frames), NODES[f"mask_resampled_T{frames}"], rtol=0, atol=1e-6
    )


def test_a_mask_from_a_number_is_clamped_and_full_length():
    assert temporal_mask(0.5, 3).tolist() == [0.5, 0.5, 0.5]
    assert temporal_mask(1.5, 2).tolist() == [1, 1]
    assert invert_mask(temporal_mask([0.25, 0.0], 2)).tolist() == [0.75, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wave("saw", period=4, length=4), "kind is 'saw'"),
        (lambda: wave("sine", period=0, length=4), "period is 0"),
        (lambda: ramp(0, 1, 0), "length is 0"),
        (lambda: constant(float("nan"), 4), "value is nan"),
        (lambda: combine("divide", 1, 1), "operation is 'divide'"),
        (lambda: combine("add", [1.0, 2.0], [1.0, 2.0, 3.0]), "a has 2 frames and b has 3"),
        (lambda: temporal_mask(torch.zeros(1, 4, 64), 4), r"mask has shape \(1, 4, 64\)"),
        (lambda: GainEntry(-1, 3, 1.0), "first is -1"),
        (lambda: GainEntry(0, 64, 1.0), "last is 64"),
        (lambda: GainEntry(5, 4, 1.0), "last is 4"),
        (lambda: GainEntry(0, 1, float("inf")), "scale holds NaN or infinity"),
        (lambda: channel_gain([GainEntry(0, 1, [1.0, 2.0]), GainEntry(2, 3, [1.0] * 3)]), "channels 0 to 1 has 2"),
    ],
)
def test_bad_arguments_are_rejected_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("k", [0, 1])
def test_channel_gain_matches_the_golden_vectors(k):
    entries = json.loads(str(GAIN["cases_json"][k]))["entries"]
    gain = channel_gain(
        [GainEntry(first, last, GAIN["curve"] if scale == "curve" else scale) for first, last, scale in entries]
    )
    np.testing.assert_array_equal(gain, GAIN[("out_a", "out_b")[k]])


def test_a_later_entry_replaces_an_earlier_one():
    gain = channel_gain([GainEntry(0, 3, 2.0), GainEntry(2, 2, 0.5), GainEntry(3, 3, 1.0)])
    assert gain is not None
    assert gain[0, 0, :5].tolist() == [2.0, 2.0, 0.5, 1.0, 1.0]


def test_a_gain_of_one_throughout_is_no_gain():
    assert channel_gain([]) is None
    assert channel_gain([GainEntry(0, 63, 1.0), GainEntry(8, 15, [1.0] * 16)]) is None
    assert channel_gain([GainEntry(0, 63, 2.0), GainEntry(0, 63, 1.0)]) is None
