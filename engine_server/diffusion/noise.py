# SPDX-License-Identifier: Apache-2.0
"""Where noise comes from. Nothing here reads or advances a global generator.

Both sources answer one question: which standard normal values belong to this purpose and step? `RequestNoise` answers per
request (the Session API and the golden vectors), `PositionNoise` per absolute frame of a timeline (tracks), so that any
window that covers a frame sees the same noise there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """Separate streams of one seed. The numbers enter the generator's key: never change them."""

    INITIAL = 0
    SDE = 1
    ODE = 2


class NoiseSource(Protocol):
    """Standard normal values of one slot."""

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> Tensor:
        """`[frames, channels]` float32 on the CPU; a pure function of the source and the arguments. Any thread."""
        ...


class RequestNoise:
    """Noise as a function of a request's seed: torch's own CPU normal draw, channels first, as upstream makes it."""

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}; a whole number from 0 to 2^64 - 1 is expected")
        self._seed = seed

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> Tensor:
        """See `NoiseSource`. The initial noise equals a `[1, channels, frames]` draw with this seed, transposed."""
        generator = torch.Generator()
        if purpose is Purpose.INITIAL:
            generator.manual_seed(self._seed)
        else:
            mixed = np.random.SeedSequence((self._seed, int(purpose), step)).generate_state(1, np.uint64)[0]
            generator.manual_seed(int(mixed))
        return torch.randn(1, channels, frames, generator=generator)[0].T.contiguous()


class PositionNoise:
    """Noise as a function of (seed, purpose, step, absolute frame, channel).

    Philox 4x64-10 (Salmon et al. 2011) gives one 64-bit word per value at a counter that follows from the frame;
    Box-Muller turns pairs of words into pairs of channels, in float64.
    """

    _FRAME_BIAS = 1 << 46
    """Frames may be negative; counters may not."""
    _WORDS_PER_COUNTER = 4

    def __init__(self, seed: int, first_frame: int) -> None:
        self._seed = seed
        self._first_frame = first_frame

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> Tensor:
        """See `NoiseSource`; the values of frames `first_frame` onwards. `channels` must be a multiple of 4."""
        key = np.array([self._seed, (int(purpose) << 32) | step], dtype=np.uint64)
        counter = (self._first_frame + self._FRAME_BIAS) * channels // self._WORDS_PER_COUNTER
        words = np.random.Philox(key=key, counter=counter).random_raw(frames * channels)
        unit = (words >> np.uint64(11)).astype(np.float64).reshape(frames, channels // 2, 2) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-unit[..., 0]))
        angle = 2.0 * np.pi * unit[..., 1]
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        return torch.from_numpy(values.reshape(frames, channels).astype(np.float32))


class WindowNoise:
    """The part of a whole piece's noise that belongs to one window: overlapping windows see the same noise."""

    def __init__(self, whole: NoiseSource, first_frame: int, total_frames: int) -> None:
        self._whole = whole
        self._first = first_frame
        self._total = total_frames

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> Tensor:
        """See `NoiseSource`; frames `first_frame` to `first_frame + frames` of `total_frames`."""
        whole = self._whole.draw(purpose, step, self._total, channels)
        return whole[self._first : self._first + frames].contiguous()
