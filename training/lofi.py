# SPDX-License-Identifier: Apache-2.0
"""A worn record on a small loudspeaker, for the `lofi` LoRA's targets: an effect chain that stays aligned to its input."""

from __future__ import annotations

import math

import numpy as np
from scipy import signal

BAND_HZ = (150, 3500)
BAND_ORDERS = (2, 4)  # of the high-pass and the low-pass
WOW_HZ, WOW_MS = (0.45, 0.8), (1.2, 2.4)  # ranges; the playback point moves so far to either side
FLUTTER_HZ, FLUTTER_MS = (5.0, 9.0), (0.03, 0.08)
GREATEST_SHIFT_MS = WOW_MS[1] + FLUTTER_MS[1]
DRIVE = 1.6  # of the saturation, at the reference level
REFERENCE_RMS = 0.1  # what the input is brought to, so that saturation and noise are the same for any input
COMPRESSOR_S, COMPRESSION = 0.15, 0.5  # smoothing; share of a level's deviation in dB that is taken away
QUIETEST = 0.02  # of the level, below which the compressor raises no further
WIDTH = 0.35  # of the stereo side signal
HISS_RMS = 0.003
CRACKLES_PER_S, CRACKLE_PEAK, CRACKLE_SPREAD = (5.0, 12.0), 0.07, 0.8  # median peak, spread in nepers
CRACKLE_S = 0.0004
NOISE_BAND_HZ = (400, 6000)


def apply(audio: np.ndarray, seed: int, sample_rate: int) -> np.ndarray:
    """Audio float32 [samples, 2] as a worn record; the same for the same seed. Same shape, at an RMS of about 0.1.

    Nothing moves in time by more than GREATEST_SHIFT_MS and the filters' delay: 0.1 to 0.3 ms from 500 Hz on, and up to
    2 ms near the lower edge of the band.
    """
    rng = np.random.default_rng((seed, 33))
    sound = audio * (REFERENCE_RMS / max(float(audio.std()), 1e-3))
    sound = _wow(sound, rng, sample_rate)
    middle, side = sound.mean(1), (sound[:, 0] - sound[:, 1]) / 2
    sound = np.stack([middle + WIDTH * side, middle - WIDTH * side], axis=1)
    sound = _compress(sound, sample_rate)
    sound = np.tanh(DRIVE * sound / (3 * REFERENCE_RMS)) * (3 * REFERENCE_RMS / DRIVE)
    for kind, order, edge_hz in zip(("highpass", "lowpass"), BAND_ORDERS, BAND_HZ, strict=True):
        sound = signal.sosfilt(signal.butter(order, edge_hz, kind, fs=sample_rate, output="sos"), sound, axis=0)
    sound = sound + _noise(len(sound), rng, sample_rate)
    return (sound * (REFERENCE_RMS / max(float(sound.std()), 1e-3))).astype(np.float32)


def _wow(sound: np.ndarray, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Read the sound at a point that sways slowly (wow) and trembles (flutter)."""
    times = np.arange(len(sound)) / sample_rate
    shift_s = np.zeros(len(sound))
    for rates_hz, depths_ms in ((WOW_HZ, WOW_MS), (FLUTTER_HZ, FLUTTER_MS)):
        angle = 2 * math.pi * (rng.uniform(*rates_hz) * times + rng.uniform())
        shift_s += rng.uniform(*depths_ms) / 1000 * np.sin(angle)
    points = (times + shift_s) * sample_rate
    # Straight lines between samples dull the top octave only, which the low-pass takes away anyhow.
    return np.stack([np.interp(points, np.arange(len(sound)), channel) for channel in sound.T], axis=1)


def _compress(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """Bring quiet and loud passages nearer to the mean level."""
    pole = math.exp(-1 / (COMPRESSOR_S * sample_rate))
    power = signal.lfilter([1 - pole], [1, -pole], sound.mean(1) ** 2)
    relative = np.sqrt(power) / REFERENCE_RMS
    return sound * (np.maximum(relative, QUIETEST) ** -COMPRESSION)[:, None].clip(0.3, 3.0)


def _noise(samples: int, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Hiss of both channels and crackles in the middle: [samples, 2]."""
    noise = HISS_RMS * rng.standard_normal((samples, 2))
    crackles = np.zeros(samples)
    count = rng.poisson(rng.uniform(*CRACKLES_PER_S) * samples / sample_rate)
    peaks = CRACKLE_PEAK * np.exp(CRACKLE_SPREAD * rng.standard_normal(count)) * rng.choice((-1.0, 1.0), count)
    np.add.at(crackles, rng.integers(samples, size=count), peaks)
    length = round(CRACKLE_S * sample_rate)
    noise += np.convolve(crackles, np.hanning(length))[:samples, None]
    band = signal.butter(2, NOISE_BAND_HZ, "bandpass", fs=sample_rate, output="sos")
    filtered: np.ndarray = signal.sosfilt(band, noise, axis=0)
    return filtered
