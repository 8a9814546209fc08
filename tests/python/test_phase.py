# SPDX-License-Identifier: Apache-2.0
"""Phase reconstruction: what comes back from magnitudes alone, wherever in the song it lies."""

from __future__ import annotations

import math

import pytest
import torch

from engine_server.model.phase import (
    GRID_HZ,
    HOP,
    PERIOD_FRAMES,
    POSITION_PERIOD,
    SAMPLE_RATE,
    Band,
    Reconstruction,
    Resolution,
    round_to_grid,
)
from engine_server.model.spectral_features import SpectralFeatures

FRAMES = 50
CHORD_HZ = (55.0, 110.0, 138.6, 164.8, 440.0, 1318.5, 3000.0)


def chord() -> torch.Tensor:
    time_s = torch.arange(FRAMES * HOP, dtype=torch.float64) / SAMPLE_RATE
    return 0.1 * sum(torch.sin(2 * math.pi * hz * time_s) for hz in CHORD_HZ).float()[None]


def spectral_lines_hz(x: torch.Tensor) -> list[float]:
    """Frequencies of the strongest lines of the middle of a signal, one near each note of the chord."""
    middle = x[0, 10 * HOP : -10 * HOP]
    level = torch.fft.rfft(middle * torch.hann_window(len(middle)), n=2**20).abs()
    found = []
    for hz in CHORD_HZ:
        first, last = (round(hz * ratio / SAMPLE_RATE * 2**20) for ratio in (0.96, 1.04))
        found.append((first + int(level[first:last].argmax())) * SAMPLE_RATE / 2**20)
    return found


@pytest.mark.parametrize("fft_size", [960, 1920, 3840])
def test_synthesis_inverts_analysis(fft_size: int) -> None:
    resolution = Resolution(fft_size)
    x = torch.randn(2, 20 * HOP, generator=torch.Generator().manual_seed(0))
    edge = fft_size
    difference = resolution.synthesise(resolution.analyse(x)) - x
    assert difference[:, edge:-edge].abs().max() < 1e-5


def test_a_full_scale_sinusoid_has_magnitude_one() -> None:
    time_s = torch.arange(20 * HOP) / SAMPLE_RATE
    magnitude = Resolution(1920).analyse(torch.sin(2 * math.pi * 1000 * time_s)[None]).abs()
    assert magnitude[0, :, 30].max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("position", [0, 7])
def test_the_partials_of_a_chord_come_back_in_tune_and_steady(position: int) -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    x = chord()
    audio = features.synthesise(features.analyse(x[:, None].expand(1, 2, -1)), position)
    back = audio.mean(1)
    for found, wanted in zip(spectral_lines_hz(back), CHORD_HZ, strict=True):
        assert found == pytest.approx(wanted, rel=0.01)
    magnitude = Resolution(3840).analyse(back).abs()[0, :, 24:-24]
    for hz in CHORD_HZ[4:]:  # far from their neighbours
        level_db = 20 * torch.log10(magnitude[round(hz / 12.5)])
        assert level_db.std() < 1.0


@pytest.mark.parametrize(("from_hz", "to_hz", "step_hz"), [(480.0, 720.0, 3.1), (1950.0, 2850.0, 12.7)])
def test_a_tone_in_a_crossover_is_steady(from_hz: float, to_hz: float, step_hz: float) -> None:
    """Both bands lay it at the same frequency. Where it lies between two of the grid's, they may still disagree a little."""
    time_s = torch.arange(40 * HOP, dtype=torch.float64) / SAMPLE_RATE
    tones = torch.sin(2 * math.pi * torch.arange(from_hz, to_hz, step_hz)[:, None] * time_s).float()
    features = SpectralFeatures((7680, 3840, 1920), 2)
    back = features.synthesise(features.analyse(tones[:, None].expand(-1, 2, -1)), 0).mean(1)
    level_db = 10 * torch.log10(2 * back[:, 12 * HOP : -12 * HOP].unfold(1, HOP, HOP // 2).square().mean(-1))
    unsteady_db = level_db.std(1)
    assert unsteady_db.quantile(0.95) < 0.5
    assert unsteady_db.max() < 3.0
    assert level_db.mean(1).quantile(0.05) > -1.0


@pytest.mark.parametrize(
    ("from_hz", "to_hz", "most_db"),
    [(40, 120, 1.0), (120, 450, 1.0), (450, 750, 2.0), (750, 2000, 1.0), (2000, 2800, 1.0), (2800, 20000, 1.0)],
)
def test_noise_keeps_its_level_in_every_band_and_where_they_meet(from_hz: float, to_hz: float, most_db: float) -> None:
    """At 500 to 700 Hz two independent noises add up, and fade as one signal does: 3 dB less in the middle."""
    features = SpectralFeatures((7680, 3840, 1920), 2)
    noise = 0.1 * torch.randn(1, 2, 2 * FRAMES * HOP, generator=torch.Generator().manual_seed(1))
    back = features.synthesise(features.analyse(noise), 0)
    powers = [torch.fft.rfft(x[..., 8 * HOP : -8 * HOP]).abs().square().sum((0, 1)) for x in (back, noise)]
    hz = torch.linspace(0, SAMPLE_RATE / 2, len(powers[0]))
    within = (hz >= from_hz) & (hz < to_hz)
    assert abs(10 * torch.log10(powers[0][within].sum() / powers[1][within].sum())) < most_db


def test_noise_is_no_loop_that_one_hears() -> None:
    """Steady magnitudes give noise that is another after the period of the phases' grid, and the same after the position's."""
    features = SpectralFeatures((7680, 3840, 1920), 2)
    noise = 0.1 * torch.randn(1, 2, FRAMES * HOP, generator=torch.Generator().manual_seed(4))
    steady = features.analyse(noise).mean(1, keepdim=True).expand(1, 3 * PERIOD_FRAMES, -1)
    signal = features.synthesise(steady, 0)[0].mean(0)
    one, next_one = (
        signal[start * HOP : (start + PERIOD_FRAMES) * HOP] for start in (PERIOD_FRAMES - 5, 2 * PERIOD_FRAMES - 5)
    )
    assert abs(float(torch.corrcoef(torch.stack([one, next_one]))[0, 1])) < 0.1
    assert torch.equal(features.synthesise(steady, POSITION_PERIOD)[0].mean(0), signal)


def test_noise_gets_no_tones() -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    noise = 0.1 * torch.randn(1, 2, FRAMES * HOP, generator=torch.Generator().manual_seed(1))
    back = features.synthesise(features.analyse(noise), 0)
    inner = slice(8 * HOP, -8 * HOP)
    spectrum = torch.fft.rfft(back[0, 0, inner]).abs().square()
    assert spectrum.max() / spectrum.mean() < 60  # white noise of this length has about 11


def test_frequencies_of_the_grid_are_in_phase_after_each_period() -> None:
    frequency_hz = round_to_grid(torch.linspace(20, 23000, 5000))
    assert torch.equal(torch.remainder(frequency_hz, GRID_HZ), torch.zeros(5000))
    exact_hz = torch.logspace(1.6, 4, 500)  # from 40 Hz, about the lowest note
    assert ((round_to_grid(exact_hz) - exact_hz).abs() <= torch.maximum(exact_hz * 0.008, torch.tensor(0.63))).all()


def test_two_bands_meet_without_a_gap() -> None:
    """White noise has no hole and no bump at the crossover."""
    fade, bottom, top = (1250.0, 1750.0), (-2.0, -1.0), (24001.0, 24002.0)
    bands = (Band(Resolution(3840), bottom, fade, True), Band(Resolution(1920), fade, top, True))
    x = torch.randn(1, 100 * HOP, generator=torch.Generator().manual_seed(2))
    magnitudes = [band.resolution.analyse(x).abs()[:, band.bins] for band in bands]
    back = Resolution(1920).analyse(Reconstruction(bands, 2)(magnitudes, 0)).abs().square().mean((0, 2))
    level_db = 10 * torch.log10(back / Resolution(1920).analyse(x).abs().square().mean((0, 2)))
    assert (level_db[45:80] - level_db[100:400].mean()).abs().max() < 2.0


def test_silence_stays_silent() -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    assert features.synthesise(features.analyse(torch.zeros(1, 2, 20 * HOP)), 0).abs().max() < 1e-6


@pytest.mark.parametrize("balance", [0.0, 0.2, 0.5, 1.0])
def test_a_panned_source_stays_where_it_is(balance: float) -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    x = chord()
    audio = torch.stack([math.sqrt(1 - balance) * x, math.sqrt(balance) * x], dim=1)
    back = features.synthesise(features.analyse(audio), 0)[..., 8 * HOP : -8 * HOP]
    share = back[:, 1].square().mean() / back.square().mean((0, 2)).sum()
    assert float(share) == pytest.approx(balance, abs=0.05)


def test_mono_stays_mono() -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    noise = 0.1 * torch.randn(1, 1, FRAMES * HOP, generator=torch.Generator().manual_seed(5)).expand(1, 2, -1)
    back = features.synthesise(features.analyse(noise), 0)
    side, mid = (back[:, 0] - back[:, 1]).square().mean(), back.sum(1).square().mean()
    assert 10 * torch.log10(side / mid + 1e-12) < -60


def test_decorrelated_channels_stay_wide() -> None:
    features = SpectralFeatures((7680, 3840, 1920), 2)
    noise = 0.1 * torch.randn(1, 2, FRAMES * HOP, generator=torch.Generator().manual_seed(3))
    back = features.synthesise(features.analyse(noise), 0)
    mid, side = back.sum(1).square().mean(), (back[:, 0] - back[:, 1]).square().mean()
    assert abs(10 * math.log10(mid / side)) < 2.0
