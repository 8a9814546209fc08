# SPDX-License-Identifier: Apache-2.0
"""Between the host's rate and the model's, so that chunking cannot change a sample.

A span is always resampled on its own, from a frame's start, with `margin(rate)` frames of surroundings on both sides that
are then discarded; the result is a function of the span's absolute position only.
"""

from __future__ import annotations

import numpy as np
import soxr

from shared_protocol.codec import Floats
from shared_protocol.timebase import samples_per_frame

MODEL_RATE = 48_000
FILTER_FRAMES = 1
"""Frames that hold the VHQ filter on either side, at every rate that we take (a test compares with an uncut signal)."""


def margin(rate: int) -> int:
    """Frames to add on both sides of a span before resampling, and to discard afterwards."""
    return 0 if rate == MODEL_RATE else FILTER_FRAMES


LOUDEST = 1e6
"""120 dB over full scale: a broken plugin may send what has no square in 32 bits, which the model would answer with NaN."""


def to_model(audio: Floats, rate: int) -> Floats:
    """`resample_span` of a host's audio to the model's rate, with no sample beyond `LOUDEST`."""
    return resample_span(np.clip(audio, -LOUDEST, LOUDEST), rate, MODEL_RATE)


def resample_span(audio: Floats, from_rate: int, to_rate: int) -> Floats:
    """`[2, n frames]` at one rate to `[2, n - 2 * margin frames]` at the other; the input itself if the rates agree."""
    if from_rate == to_rate:
        return audio
    frames = audio.shape[1] // samples_per_frame(from_rate)
    wanted = frames * samples_per_frame(to_rate)
    result = soxr.resample(np.ascontiguousarray(audio.T), from_rate, to_rate, quality="VHQ").T
    if result.shape[1] != wanted:
        raise AssertionError(f"soxr gave {result.shape[1]} samples for {wanted}")
    cut = FILTER_FRAMES * samples_per_frame(to_rate)
    return np.ascontiguousarray(result[:, cut : wanted - cut], dtype=np.float32)
