# SPDX-License-Identifier: Apache-2.0
"""Features that tell instrument families apart, whatever the level: colour, movement, attacks and decays, fine structure.

Everything is taken from the mono mix at the reference level, over frames that are heard, and from bands wide enough that a
codec without exact phases changes little.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.spectra import SAMPLE_RATE, at_reference_level, htk_mel_filters, mono, spectrum

VERSION = "timbre1"
"""Changes whenever a feature does: part of the names of files that keep features."""
MEL_BANDS, CEPSTRA = 64, 24
LOWEST_HZ = 60.0
HOP = 480
FRAME_RATE = SAMPLE_RATE / HOP
HEARD_DB, DEEPEST_DB = 35.0, 75.0
"""Frames so far below the loudest twentieth are not heard; bands so far below the loudest one are held there."""
BROAD_BANDS, BROAD_DEPTH_DB = 8, 50.0
SLOPE_FRAMES = 5
SLOPE_QUANTILES = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
LEVEL_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MODULATION_FRAMES = 200
MODULATION_EDGES = (2, 5, 8, 11, 16, 24, 40, 70, 100)
"""In steps of half a hertz: beats, vibrato and tremolo, roughness."""
FINE_FFT, FINE_HOP = 4096, 1920
OCTAVE_EDGES_HZ = (100, 200, 400, 800, 1600, 3200, 6400, 12800)
FINE_QUANTILES = (0.1, 0.5, 0.9, 0.98)
LEAST_FRAMES = 20


def features(audio: Tensor) -> NDArray[np.float64]:
    """Of `[2, S]`, three seconds or more: `[F]`."""
    signal, _ = at_reference_level(mono(audio), mono(audio))
    least = round(2 * MODULATION_FRAMES / FRAME_RATE * SAMPLE_RATE)
    if len(signal) < least:
        signal = signal.repeat(-(-least // len(signal)))
    bands = htk_mel_filters(MEL_BANDS, 2048, LOWEST_HZ) @ spectrum(signal, 2048, HOP).abs().square()
    total_db = 10 * torch.log10(bands.sum(0) + 1e-9)
    heard = total_db > torch.quantile(total_db, 0.95) - HEARD_DB
    if int(heard.sum()) < LEAST_FRAMES:
        heard = torch.ones_like(heard)
    levels = torch.cat([_broad_levels(bands), _held(total_db[None], BROAD_DEPTH_DB)])
    parts = (_cepstra(bands, heard), _slopes(levels, heard), _ranges(levels[:, heard]), _modulation(levels))
    return torch.cat([part.flatten() for part in (*parts, _fine(signal))]).numpy().astype(np.float64)


def _held(levels_db: Tensor, depth_db: float) -> Tensor:
    """Rows held to so much below each row's loudest value."""
    return torch.maximum(levels_db, levels_db.amax(1, keepdim=True) - depth_db)


def _broad_levels(bands: Tensor) -> Tensor:
    """Levels in dB of neighbouring mel bands together, `[8, frames]`."""
    broad = bands.reshape(BROAD_BANDS, -1, bands.shape[1]).sum(1)
    return _held(10 * torch.log10(broad + 1e-8), BROAD_DEPTH_DB)


@cache
def _cosines() -> Tensor:
    place = (torch.arange(MEL_BANDS) + 0.5) * math.pi / MEL_BANDS
    return torch.cos(place * torch.arange(1, CEPSTRA)[:, None]) * math.sqrt(2 / MEL_BANDS)


def _cepstra(bands: Tensor, heard: Tensor) -> Tensor:
    """Mel-frequency cepstra without the level: mean, spread, and movement within 20 ms."""
    levels = 10 * torch.log10(bands + 1e-9)
    cepstra = _cosines() @ torch.maximum(levels, levels.amax() - DEEPEST_DB)
    moved = (cepstra[:, 2:] - cepstra[:, :-2]).abs()[:, heard[1:-1]]
    return torch.stack([cepstra[:, heard].mean(1), cepstra[:, heard].std(1), moved.mean(1)])


def _slopes(levels: Tensor, heard: Tensor) -> Tensor:
    """Quantiles of how levels change within 50 ms: attacks at one end, decays at the other."""
    slopes = levels[:, SLOPE_FRAMES:] - levels[:, :-SLOPE_FRAMES]
    middle = heard[SLOPE_FRAMES // 2 : SLOPE_FRAMES // 2 + slopes.shape[1]]
    return torch.quantile(slopes[:, middle], torch.tensor(SLOPE_QUANTILES), dim=1)


def _ranges(levels: Tensor) -> Tensor:
    """Quantiles of levels below their highest one."""
    quantiles = torch.quantile(levels, torch.tensor(LEVEL_QUANTILES), dim=1)
    return quantiles[:-1] - quantiles[-1]


def _modulation(levels: Tensor) -> Tensor:
    """Logarithms of the power of level changes in bands of their frequency, from 1 to 50 Hz."""
    segments = levels.unfold(1, MODULATION_FRAMES, MODULATION_FRAMES // 2)
    segments = (segments - segments.mean(-1, keepdim=True)) * torch.hann_window(MODULATION_FRAMES)
    power = torch.fft.rfft(segments).abs().square().mean(1)
    return torch.stack([torch.log(power[:, low:high].mean(1) + 1e-3) for low, high in pairwise(MODULATION_EDGES)])


def _fine(signal: Tensor) -> Tensor:
    """By octave: how far partials stand above what lies between them (three ways), and spectral flatness."""
    magnitude = spectrum(signal, FINE_FFT, FINE_HOP).abs() + 1e-5
    hz = torch.linspace(0, SAMPLE_RATE / 2, magnitude.shape[0])
    rows = []
    for low, high in pairwise(OCTAVE_EDGES_HZ):
        octave = magnitude[(hz >= low) & (hz < high)]
        valley, middle, peak, top = torch.quantile(20 * torch.log10(octave), torch.tensor(FINE_QUANTILES), dim=0)
        flatness = octave.log().mean(0) - octave.mean(0).log()
        rows.append(torch.stack([each.mean() for each in (top - valley, peak - middle, middle - valley, flatness)]))
    return torch.stack(rows)
