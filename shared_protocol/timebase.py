# SPDX-License-Identifier: Apache-2.0
"""Frames and samples: the one place in Python that converts between them. `cpp/include/demon/timebase.h` is its twin."""

from __future__ import annotations

FRAMES_PER_SECOND = 25
MIN_RATE = 8_000
MAX_RATE = 192_000


def is_valid_rate(rate: int) -> bool:
    """Whether a frame is a whole number of samples at this rate, and the rate is one that we take."""
    return MIN_RATE <= rate <= MAX_RATE and rate % FRAMES_PER_SECOND == 0


def samples_per_frame(rate: int) -> int:
    """Samples of one frame; exact for every valid rate."""
    return rate // FRAMES_PER_SECOND


def frame_of_sample(sample: int, rate: int) -> int:
    """The frame that contains a sample; right for negative positions too."""
    return sample // samples_per_frame(rate)


def first_sample(frame: int, rate: int) -> int:
    """Timeline position of a frame's first sample."""
    return frame * samples_per_frame(rate)


def frames_to_cover(samples: int, rate: int) -> int:
    """How many frames hold this many samples, counted from a frame's start."""
    return -(-samples // samples_per_frame(rate))
