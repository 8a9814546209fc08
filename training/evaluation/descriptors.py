# SPDX-License-Identifier: Apache-2.0
"""Numbers that say how music sounds: how bright, loud, busy, noisy and wide it is, and how fast it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.evaluation.spectra import FLOOR, SAMPLE_RATE, htk_mel_filters, mono, rms, same_length, spectrum
from training.evaluation.stereo import side_share_db

ONSET_HOP = 480
ONSET_RATE_HZ = SAMPLE_RATE / ONSET_HOP
ONSET_SMOOTHING = 25
"""Frames (a quarter of a second) of the moving mean that an onset must rise above."""
ONSET_SHARE = 0.25
"""An onset is a peak of the envelope of at least this share of its 98th percentile."""
AGREEMENT_LAG = 5
"""Frames (50 ms) by which two onset envelopes may be shifted."""
SLOWEST_BPM, FASTEST_BPM, USUAL_BPM = 40.0, 200.0, 110.0
TEMPO_TOLERANCE = 0.04
LOWEST_CENTROID_HZ = 1.0
"""Of silence, so that it has an octave."""
QUIET = 0.1
"""The floor is the level that this share of the time is below."""

SCALES: Mapping[str, float] = {
    "level dB": 1.0,
    "centroid oct": 0.1,
    "onsets per s": 0.5,
    "floor dB": 2.0,
    "flatness dB": 1.0,
    "side dB": 1.5,
    "decay dB/s": 5.0,
}
"""What of each descriptor is a change that one begins to hear, roughly: the unit for telling which of them changed most."""


def describe(audio: Tensor) -> dict[str, float]:
    """All descriptors of `[2, S]`, by the names of `SCALES`.

    level: RMS against full scale. centroid: octaves above 1 kHz. onsets: see `onset_count`. floor: 10th percentile of the
    level in frames of 43 ms, against the RMS. flatness: geometric over arithmetic mean of the power spectrum, 100 Hz to
    10 kHz; noise is near -2.5 dB, tones far below. side: `stereo.side_share_db`, at least -40. decay: median fall of the
    level while it falls.
    """
    signal = mono(audio)
    return {
        "level dB": 20 * math.log10(rms(signal) + 1e-6),
        "centroid oct": math.log2(max(LOWEST_CENTROID_HZ, centroid_hz(audio)) / 1000),
        "onsets per s": onset_count(audio) / (len(signal) / SAMPLE_RATE),
        "floor dB": _floor_db(signal),
        "flatness dB": _flatness_db(signal),
        "side dB": max(-40.0, side_share_db(audio)),
        "decay dB/s": _decay(signal),
    }


def most_telling(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The descriptor that changed most, measured in `SCALES`."""
    return max(SCALES, key=lambda name: abs(after[name] - before[name]) / SCALES[name])


def centroid_hz(audio: Tensor) -> float:
    """Mean frequency of the mono mix's magnitude spectrum (FFT 2048), over all frames by their magnitude; 0 of silence."""
    magnitude = spectrum(mono(audio)).abs().sum(-1)
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, len(magnitude))
    return float((magnitude * frequencies).sum() / magnitude.sum().clamp_min(1e-9))


def onset_envelope(audio: Tensor) -> Tensor:
    """Spectral flux of the mono mix: what log-mel bands (40, every 10 ms) rise by, above its moving mean: `[frames]`."""
    bands = _fine_log_mel(mono(audio))
    flux = (bands[:, 1:] - bands[:, :-1]).clamp_min(0).mean(0)
    kernel = torch.ones(1, 1, 2 * ONSET_SMOOTHING + 1) / (2 * ONSET_SMOOTHING + 1)
    padded = torch.nn.functional.pad(flux[None, None], (ONSET_SMOOTHING,) * 2, mode="replicate")
    return (flux - torch.nn.functional.conv1d(padded, kernel)[0, 0]).clamp_min(0)


def onset_count(audio: Tensor) -> int:
    """Peaks of the onset envelope, at least 50 ms apart."""
    envelope = onset_envelope(audio)
    highest = torch.nn.functional.max_pool1d(envelope[None, None], 11, 1, 5)[0, 0]
    least = ONSET_SHARE * float(torch.quantile(envelope, 0.98)) + 1e-4
    return int(((envelope == highest) & (envelope > least)).sum())


def onset_agreement(original: Tensor, other: Tensor) -> float:
    """Correlation of two onset envelopes `[frames]`, the best within shifts of 50 ms, in [-1, 1]."""
    a, b = same_length(original, other)
    best = -1.0
    for lag in range(-AGREEMENT_LAG, AGREEMENT_LAG + 1):
        x, y = a[max(0, lag) : len(a) + min(0, lag)], b[max(0, -lag) : len(b) + min(0, -lag)]
        x, y = x - x.mean(), y - y.mean()
        best = max(best, float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-9)))
    return best


def tempo_bpm(envelope: Tensor) -> float:
    """Where the autocorrelation of an onset envelope `[frames]` peaks from 40 to 200 bpm, slightly favouring 110 bpm."""
    envelope = envelope - envelope.mean()
    spectrum = torch.fft.rfft(envelope, 2 * len(envelope))
    autocorrelation = torch.fft.irfft(spectrum.abs().square())[: len(envelope)]
    lags = torch.arange(round(60 * ONSET_RATE_HZ / FASTEST_BPM), round(60 * ONSET_RATE_HZ / SLOWEST_BPM) + 1)
    lags = lags[lags < len(envelope)]
    bpm = 60 * ONSET_RATE_HZ / lags
    weight = torch.exp(-0.5 * torch.log2(bpm / USUAL_BPM).square())
    return float(bpm[(autocorrelation[lags] * weight).argmax()])


def tempo_agrees(original: Tensor, other: Tensor) -> bool:
    """Whether the tempi of two onset envelopes are within 4 % of one another; double and half tempo do not agree."""
    return abs(tempo_bpm(other) / tempo_bpm(original) - 1) <= TEMPO_TOLERANCE


def _fine_log_mel(signal: Tensor) -> Tensor:
    return torch.log(htk_mel_filters(40, 1024) @ spectrum(signal, 1024, ONSET_HOP).abs() + 10 * FLOOR)


def _frame_levels_db(signal: Tensor, length: int = 2048) -> Tensor:
    frames = signal.unfold(0, length, length) if len(signal) >= length else signal[None]
    return 10 * torch.log10(frames.square().mean(1) + 1e-10)


def _floor_db(signal: Tensor) -> float:
    return float(torch.quantile(_frame_levels_db(signal), QUIET)) - 20 * math.log10(rms(signal) + 1e-5)


def _flatness_db(signal: Tensor) -> float:
    power = spectrum(signal).abs().square() + 1e-9
    hz = torch.linspace(0, SAMPLE_RATE / 2, power.shape[0])
    heard = power[(hz >= 100) & (hz <= 10_000)]
    flatness = 10 * torch.log10(heard).mean(0) - 10 * torch.log10(heard.mean(0))
    weight = heard.sum(0)
    return float((flatness * weight).sum() / weight.sum())


def _decay(signal: Tensor) -> float:
    """Median fall in dB per second over the frames where the level falls; 0 if it never does."""
    levels = _frame_levels_db(signal, 1024)
    heard = levels > levels.max() - 50
    falls = (levels[:-4] - levels[4:])[heard[:-4] & heard[4:]] / (4 * 1024 / SAMPLE_RATE)
    falling = falls[falls > 0]
    return float(falling.median()) if len(falling) else 0.0
