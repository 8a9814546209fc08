# SPDX-License-Identifier: Apache-2.0
"""Spectrograms on a logarithmic frequency axis, where an octave is as high everywhere."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.spectra import SAMPLE_RATE, mono, spectrum

FFT_SIZE, HOP = 8192, 480
LOWEST_HZ, OCTAVES, BANDS_PER_OCTAVE = 55.0, 8, 36
RANGE_DB = 70.0


def log_spectrogram_db(audio: Tensor) -> NDArray[np.float32]:
    """Level in dB of `[2, S]`'s mono mix in 36 bands per octave from 55 Hz to 14 kHz, every 10 ms: `[bands, frames]`.

    Where bands are narrower than the FFT's bins (5.9 Hz), neighbouring bins are interpolated.
    """
    magnitude = spectrum(mono(audio), FFT_SIZE, HOP).abs()
    edges_hz = LOWEST_HZ * 2 ** (np.arange(OCTAVES * BANDS_PER_OCTAVE + 1) / BANDS_PER_OCTAVE)
    places = edges_hz / (SAMPLE_RATE / FFT_SIZE)
    bands = []
    for low, high in pairwise(places):
        first, stop = math.ceil(low), math.ceil(high)
        if stop > first:
            bands.append(magnitude[first:stop].amax(0))
        else:
            below = math.floor(low)
            share = (low + high) / 2 - below
            bands.append((1 - share) * magnitude[below] + share * magnitude[below + 1])
    levels: NDArray[np.float32] = (20 * torch.log10(torch.stack(bands) + 1e-6)).numpy()
    return levels


def show_spectrogram(axis: Axes, audio: Tensor, title: str, loudest_db: float | None = None) -> None:
    """Draw the spectrogram of `[2, S]`; `loudest_db`: what is drawn brightest, the signal's own maximum by default."""
    levels = log_spectrogram_db(audio)
    top = float(levels.max()) if loudest_db is None else loudest_db
    extent = (0.0, audio.shape[1] / SAMPLE_RATE, 0.0, float(OCTAVES))
    axis.imshow(levels, origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")
    axis.set_yticks(range(OCTAVES + 1), [f"{LOWEST_HZ * 2**octave:g}" for octave in range(OCTAVES + 1)], fontsize=7)
    axis.set_ylabel("Hz", fontsize=8)
    axis.set_title(title, fontsize=9)
