# SPDX-License-Identifier: Apache-2.0
"""Tempo and key of audio, by estimates that need no trained weights.

Tempo: spectral flux (Bello et al. 2005), its autocorrelation, and the preference for moderate tempi of Ellis (2007). Key: the
chroma of the whole piece against the key profiles of Krumhansl and Kessler (1982). Both are right on music with a clear beat
and a clear key, and guesses elsewhere; a key is most often mistaken for its relative or its dominant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from engine_server.types import Audio

MAJOR_TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
KEYS = tuple(f"{tonic} major" for tonic in MAJOR_TONICS) + tuple(f"{tonic} minor" for tonic in MINOR_TONICS)
"""The 24 keys in their usual spelling, major before minor, by pitch class of the tonic."""
RATE = 22050
BPM_RANGE = (60.0, 200.0)
FALLBACK_BPM = 120.0
"""For audio without onsets, or too short to hear any repeat."""

_FLUX_FFT, _FLUX_HOP = 2048, 512
_PREFERRED_BPM, _PREFERENCE_OCTAVES = 120.0, 0.9
_MULTIPLES = 4
"""Beats over which a period must hold; more of them tell nearby tempi apart."""
_SMOOTHING = np.hanning(7)[1:-1] / 3.0
"""Over 5 frames: periods are rarely whole numbers of frames."""
_CHROMA_FFT, _CHROMA_HOP = 8192, 4096
_CHROMA_HZ = (55.0, 2000.0)
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

Floats = NDArray[np.float64]


class AudioInfo(NamedTuple):
    """What audio tells of itself."""

    bpm: int
    """60 to 200."""
    key: str
    """One of `KEYS`."""
    duration: float
    """Seconds."""


def audio_info(audio: Audio) -> AudioInfo:
    """Tempo, key and length of audio at any rate."""
    samples = mono(audio)
    return AudioInfo(round(estimate_tempo(samples)), estimate_key(samples), audio.duration_s)


def estimate_tempo(samples: Floats) -> float:
    """Beats per minute, 60 to 200, of mono audio `[n]` at `RATE`; `FALLBACK_BPM` where nothing repeats."""
    flux = np.convolve(_spectral_flux(samples), _SMOOTHING, mode="same")
    rate = RATE / _FLUX_HOP
    longest = _MULTIPLES * 60.0 / BPM_RANGE[0] * rate
    if len(flux) <= longest / 2 or not flux.any():
        return FALLBACK_BPM
    similarity = _autocorrelation(flux - flux.mean(), int(longest) + 2)
    tempi = np.arange(10 * BPM_RANGE[0], 10 * BPM_RANGE[1] + 1) / 10
    lags = 60.0 / tempi * rate
    comb = sum(np.interp(k * lags, np.arange(len(similarity)), similarity) for k in range(1, _MULTIPLES + 1))
    preference = np.exp(-0.5 * (np.log2(tempi / _PREFERRED_BPM) / _PREFERENCE_OCTAVES) ** 2)
    score = comb * preference
    best = int(np.argmax(score))
    return float(tempi[best]) if score[best] > 0 else FALLBACK_BPM


def estimate_key(samples: Floats) -> str:
    """One of `KEYS`, of mono audio `[n]` at `RATE`; the first of them for silence."""
    chroma = _chroma(samples)
    profiles = [np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)]
    if np.ptp(chroma) == 0:
        return KEYS[0]
    return KEYS[int(np.argmax([np.corrcoef(chroma, profile)[0, 1] for profile in profiles]))]


def mono(audio: Audio) -> Floats:
    """Both sides together, `[n]` at `RATE`."""
    samples = audio.waveform.double().mean(dim=0).cpu().numpy()
    return np.asarray(soxr.resample(samples, audio.sample_rate, RATE), dtype=np.float64)


def _spectral_flux(samples: Floats) -> Floats:
    """Rise of the compressed magnitudes from frame to frame, `[frames - 1]`, `_FLUX_HOP` samples apart."""
    rise = np.diff(np.log1p(1000.0 * _magnitudes(samples, _FLUX_FFT, _FLUX_HOP)), axis=0)
    return np.asarray(rise.clip(min=0.0).mean(axis=1))


def _chroma(samples: Floats) -> Floats:
    """Energy by pitch class, `[12]` from C; compressed, so that loud notes do not drown the others."""
    hz = np.fft.rfftfreq(_CHROMA_FFT, 1.0 / RATE)
    heard = (hz >= _CHROMA_HZ[0]) & (hz <= _CHROMA_HZ[1])
    classes = np.round(69 + 12 * np.log2(hz[heard] / 440.0)).astype(int) % 12
    spectrum = _magnitudes(samples, _CHROMA_FFT, _CHROMA_HOP)[:, heard].mean(axis=0)
    return np.sqrt(np.bincount(classes, weights=spectrum, minlength=12))


def _magnitudes(samples: Floats, fft: int, hop: int) -> Floats:
    """Magnitudes `[frames, fft / 2 + 1]` of Hann windows, 1 for a full-scale sine; short audio is filled with zeros."""
    padded = np.pad(samples, (0, max(0, fft - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop]
    window = np.hanning(fft)
    return np.abs(np.fft.rfft(frames * window, axis=1)) * (2.0 / window.sum())


def _autocorrelation(values: Floats, lags: int) -> Floats:
    """`[lags]`, 1 at lag 0; every lag is averaged over what overlaps, and is 0 where less than a quarter does."""
    n = len(values)
    spectrum = np.abs(np.fft.rfft(values, 2 * n)) ** 2
    sums = np.fft.irfft(spectrum)[:n]
    overlap = np.arange(n, 0, -1)
    mean = np.where(overlap >= n / 4, sums / overlap, 0.0)
    return np.pad(mean / max(mean[0], np.finfo(float).tiny), (0, max(0, lags - n)))[:lags]
