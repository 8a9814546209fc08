# SPDX-License-Identifier: Apache-2.0
"""What a codec makes of the partials of a sustained chord: where they lie, and how steady they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.spectra import REFERENCE_RMS, SAMPLE_RATE

CHORD_HZ = (220.0, 277.183, 329.628)
"""A3, C#4, E4."""
HARMONICS = 8
CHORD_S = 6.0
FADE_S = 0.05
MIDDLE_S = (1.0, 5.0)
"""What is measured, away from the ends."""
SEARCH = 0.05
"""A partial is looked for so far to either side, as a share of its frequency, but not beyond half way to its neighbour."""
ISOLATION_HZ = 40.0
"""A partial nearer to another one cannot be measured alone and is left out."""
PROMINENCE_DB, LOST_DB = 10.0, -20.0
"""A partial is there if its peak stands so far above the median of what was searched, and has lost less than this."""
RIGHT_WITHIN = 0.01
AMPLITUDE_WINDOW_S = 0.08
AMPLITUDE_STEP_S = 0.01


@dataclass(frozen=True)
class Partial:
    """One partial in a reconstruction."""

    expected_hz: float
    measured_hz: float
    prominence_db: float
    level_db: float
    """Against what it is in the original."""
    unsteadiness_db: float
    """Standard deviation of its level over time, in windows of 80 ms."""

    @property
    def error(self) -> float:
        """Of the frequency, as a share of it."""
        return abs(self.measured_hz / self.expected_hz - 1)

    @property
    def is_there(self) -> bool:
        """Whether there is a partial at all."""
        return self.prominence_db >= PROMINENCE_DB and self.level_db >= LOST_DB

    @property
    def is_right(self) -> bool:
        """Whether it is there, within 1 % of where it should be."""
        return self.is_there and self.error <= RIGHT_WITHIN


def chord() -> Tensor:
    """The chord, additive, equal on both sides: `[2, 6 s]`, harmonics 1 to 8 with amplitudes 1/h."""
    time = torch.arange(round(CHORD_S * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    signal = torch.zeros_like(time)
    for note, hz in enumerate(CHORD_HZ):
        for harmonic in range(1, HARMONICS + 1):
            phase = 2.4 * (note * HARMONICS + harmonic)  # any spread that keeps the peaks low
            signal += torch.sin(2 * math.pi * harmonic * hz * time + phase) / harmonic
    signal *= REFERENCE_RMS / signal.square().mean().sqrt()
    fade = (torch.minimum(time, CHORD_S - time) / FADE_S).clamp(0, 1)
    return (signal * fade).float().expand(2, -1).contiguous()


def isolated_partials() -> dict[float, float]:
    """The chord's partials that have no other within 40 Hz, rising: frequency and distance to the nearest other one, Hz."""
    every = sorted(harmonic * hz for hz in CHORD_HZ for harmonic in range(1, HARMONICS + 1))
    nearest = {hz: min(abs(other - hz) for other in every if other != hz) for hz in every}
    return {hz: distance for hz, distance in nearest.items() if distance >= ISOLATION_HZ}


def measure_partials(reconstruction: Tensor) -> list[Partial]:
    """The isolated partials of a reconstruction `[2, S]` of `chord()`."""
    start, stop = (round(second * SAMPLE_RATE) for second in MIDDLE_S)
    signal = reconstruction.mean(0)[start:stop].double()
    original = chord().mean(0)[start:stop].double()
    size = 4 * len(signal)  # bins of 1/16 Hz
    window = torch.hann_window(len(signal), dtype=torch.float64)
    spectrum, reference = (torch.fft.rfft(x * window, size).abs() + 1e-9 for x in (signal, original))
    bin_hz = SAMPLE_RATE / size
    partials = []
    for hz, distance_hz in isolated_partials().items():
        reach_hz = min(SEARCH * hz, distance_hz / 2)
        low, high = round((hz - reach_hz) / bin_hz), round((hz + reach_hz) / bin_hz) + 1
        searched = spectrum[low:high]
        peak = int(searched.argmax())
        measured_hz = (low + peak) * bin_hz
        there = float(reference[low:high].max())
        partials.append(
            Partial(
                hz,
                measured_hz,
                20 * math.log10(float(searched[peak] / searched.median())),
                20 * math.log10(float(searched[peak]) / there),
                _unsteadiness_db(signal, measured_hz),
            )
        )
    return partials


def _unsteadiness_db(signal: Tensor, hz: float) -> float:
    """Standard deviation of the level in dB of what sounds around a frequency (within about 25 Hz)."""
    time = torch.arange(len(signal), dtype=torch.float64) / SAMPLE_RATE
    turned = torch.polar(signal, -2 * math.pi * hz * time)
    length, step = round(AMPLITUDE_WINDOW_S * SAMPLE_RATE), round(AMPLITUDE_STEP_S * SAMPLE_RATE)
    window = torch.hann_window(length, dtype=torch.float64)
    amplitude = (turned.unfold(0, length, step) * window).mean(1).abs()
    return float((20 * torch.log10(amplitude + 1e-9)).std())
