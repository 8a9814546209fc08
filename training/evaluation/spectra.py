# SPDX-License-Identifier: Apache-2.0
"""Spectra that the metrics share. Audio is `[2, S]` float32 at 48 kHz, full scale being 1."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 48_000
FFT_SIZE, HOP = 2048, 512
MEL_BANDS = 80
SLANEY_MEL_HZ, SLANEY_CORNER_HZ = 200 / 3, 1000.0
"""Slaney's mel scale is linear up to the corner, so many Hz per mel, and logarithmic above."""
SLANEY_LOG_STEP = math.log(6.4) / 27
"""Of a mel above the corner, in nat of frequency."""
FLOOR = 1e-4
"""Added to magnitudes before a logarithm. A full-scale sine's peak bin is 11.3: the floor lies 101 dB below it."""
REFERENCE_RMS = 0.1
"""Level, -20 dBFS, that comparisons are made at: the floor then means the same for loud and quiet music."""


def mono(audio: Tensor) -> Tensor:
    """The mean of the channels: `[2, S]` -> `[S]`."""
    return audio.mean(0)


def rms(signal: Tensor) -> float:
    """Root of the mean square over everything."""
    return float(signal.square().mean().sqrt())


def at_reference_level(original: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals scaled by the one factor that brings the original to `REFERENCE_RMS`; silence is left as it is."""
    level = rms(original)
    gain = REFERENCE_RMS / level if level > 1e-7 else 1.0
    return original * gain, other * gain


def spectrum(signal: Tensor, fft_size: int = FFT_SIZE, hop: int = HOP) -> Tensor:
    """Complex STFT of `[..., S]` under a Hann window, divided by the root of its size: `[..., bins, frames]`."""
    window = torch.hann_window(fft_size, device=signal.device)
    flat = signal.reshape(-1, signal.shape[-1])
    spec = torch.stft(flat, fft_size, hop, window=window, return_complex=True) / math.sqrt(fft_size)
    return spec.reshape(*signal.shape[:-1], *spec.shape[-2:])


@cache
def htk_mel_filters(bands: int, fft_size: int = FFT_SIZE, low_hz: float = 0.0) -> Tensor:
    """Triangles equally spaced on HTK's mel scale (2595 log10(1 + f/700)), each of unit sum: `[bands, bins]`.

    For features of wide bands. A triangle narrower than a bin is widened to it, so that no band is empty.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, SAMPLE_RATE / 2))
    edges_hz = 700 * (10 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595) - 1)
    filters = _triangles(edges_hz, fft_size, SAMPLE_RATE / fft_size)
    return (filters / filters.sum(1, keepdim=True)).float()


@cache
def slaney_mel_filters(bands: int = MEL_BANDS, fft_size: int = FFT_SIZE) -> Tensor:
    """Triangles of unit area per Hz, equally spaced on Slaney's mel scale from 0 Hz to half the rate: `[bands, bins]`.

    librosa's filters with `norm="slaney"` (Slaney, Auditory Toolbox, 1998): what the log-mel distance is defined with.
    """
    edges_hz = _slaney_hz(torch.linspace(0, _slaney_mel(SAMPLE_RATE / 2), bands + 2, dtype=torch.float64))
    return (_triangles(edges_hz, fft_size) * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).float()


def _triangles(edges_hz: Tensor, fft_size: int, narrowest_hz: float = 0.0) -> Tensor:
    """Triangles of height 1 between every second edge: `[edges - 2, bins]`."""
    bins_hz = torch.linspace(0, SAMPLE_RATE / 2, fft_size // 2 + 1, dtype=torch.float64)
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - centre) / (centre - left).clamp_min(narrowest_hz) + 1
    falling = (centre - bins_hz) / (right - centre).clamp_min(narrowest_hz) + 1
    return torch.minimum(rising, falling).clamp_min(0)


def _slaney_mel(hz: float) -> float:
    """Of a frequency from SLANEY_CORNER_HZ on."""
    return (SLANEY_CORNER_HZ / SLANEY_MEL_HZ) + math.log(hz / SLANEY_CORNER_HZ) / SLANEY_LOG_STEP


def _slaney_hz(mel: Tensor) -> Tensor:
    corner = SLANEY_CORNER_HZ / SLANEY_MEL_HZ
    above = SLANEY_CORNER_HZ * torch.exp(SLANEY_LOG_STEP * (mel - corner))
    return torch.where(mel < corner, SLANEY_MEL_HZ * mel, above)


def log_mel(signal: Tensor) -> Tensor:
    """Natural logarithm of Slaney mel-band magnitudes of `[..., S]`: `[..., MEL_BANDS, frames]`, in nat."""
    return torch.log(slaney_mel_filters() @ spectrum(signal).abs() + FLOOR)


def log_mel_distance(original: Tensor, other: Tensor) -> float:
    """Mean absolute difference in nat of the log-mel spectra (80 Slaney bands, FFT 2048, hop 512) of two mono mixes.

    Both at the original's reference level; of different lengths, the shorter one's counts.
    """
    a, b = at_reference_level(*same_length(mono(original), mono(other)))
    return float((log_mel(a) - log_mel(b)).abs().mean())


def log_spectral_distance_db(original: Tensor, other: Tensor) -> float:
    """Root mean square over bins of the dB difference of two mono mixes' spectra (FFT 2048), mean over frames.

    Two independent noises of one spectrum are about 7.8 dB apart: no codec without the phases gets far below in noise.
    """
    a, b = at_reference_level(*same_length(mono(original), mono(other)))
    difference = 20 * (torch.log10(spectrum(a).abs() + FLOOR) - torch.log10(spectrum(b).abs() + FLOOR))
    return float(difference.square().mean(-2).sqrt().mean())


def same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both cut to the shorter one's samples."""
    samples = min(a.shape[-1], b.shape[-1])
    return a[..., :samples], b[..., :samples]
