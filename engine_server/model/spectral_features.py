# SPDX-License-Identifier: Apache-2.0
"""What the embedded codec keeps of stereo audio: log-magnitudes at three resolutions, and where in the stereo field.

- Three bands: the lows are seen through a long window, which tells the notes of a low chord apart, the highs through a
  short one, which keeps attacks short.
- Single bins up to 6 kHz; above, groups of 100 and 200 Hz, whose fine structure is noise to the ear.
- One magnitude for both channels, the root of their mean power. In each of 20 bands: the share of the left channel in
  the power, and that of mid (parametric stereo, Breebaart et al. 2005).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine_server.model.phase import HOP, SAMPLE_RATE, Band, Reconstruction, Resolution

LOW_FADE_HZ, HIGH_FADE_HZ = (500.0, 700.0), (2000.0, 2800.0)
BOTTOM_HZ, TOP_HZ = (-2.0, -1.0), (24001.0, 24002.0)  # no fade
SINGLE_BINS_TO_HZ = 6000.0
COARSE_TO_HZ = ((12000.0, 100.0), (24000.0, 200.0))  # upper limit, width
LOG_FLOOR = 1e-4  # a magnitude of -80 dB re a full-scale sinusoid
STEREO_BANDS = 20
POWER_FLOOR = 1e-9
LEFT_MARGIN = 1e-5  # the left's share of power stays this far from 0 and 1, 50 dB down


class SpectralFeatures(nn.Module):
    """The two directions, audio to features and features to audio; nothing here is trained."""

    stereo: Tensor
    stereo_of_bin: Tensor
    stereo_sign: Tensor
    group_of_bin: Tensor
    groups: Tensor

    def __init__(self, windows: tuple[int, int, int], iterations: int):
        """`windows`: FFT sizes in samples for the lows, the middle and the highs. `iterations`: of Griffin-Lim."""
        super().__init__()
        low, middle, high = (Resolution(fft_size) for fft_size in windows)
        self.bands = (
            Band(low, BOTTOM_HZ, LOW_FADE_HZ, is_iterated=False),
            Band(middle, LOW_FADE_HZ, HIGH_FADE_HZ, is_iterated=True),
            Band(high, HIGH_FADE_HZ, TOP_HZ, is_iterated=True),
        )
        self.high = high
        self.reconstruction = Reconstruction(self.bands, iterations)
        bin_hz = SAMPLE_RATE / high.fft_size
        owner = _groups(self.bands[-1].bins, bin_hz)
        self.register_buffer("group_of_bin", owner, persistent=False)
        groups = nn.functional.one_hot(owner).float().T
        self.group_width = groups.sum(1)
        self.register_buffer("groups", groups / self.group_width[:, None], persistent=False)
        self._register_stereo_bands(bin_hz)

    def _register_stereo_bands(self, bin_hz: float) -> None:
        mel = 2595 * torch.log10(1 + torch.arange(self.high.bins) * bin_hz / 700)
        owner = (mel / mel[-1] * STEREO_BANDS).long().clamp(max=STEREO_BANDS - 1)
        matrix = nn.functional.one_hot(owner, STEREO_BANDS).float().T
        self.register_buffer("stereo", matrix / matrix.sum(1, keepdim=True), persistent=False)
        self.register_buffer("stereo_of_bin", owner, persistent=False)
        self.register_buffer("stereo_sign", 1.0 - 2.0 * (owner % 2), persistent=False)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Magnitudes per sub-frame in each band."""
        low, middle, _ = (len(range(band.bins.start, band.bins.stop)) for band in self.bands)
        return low, middle, len(self.group_width)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features per latent frame: each band's magnitudes, then the stereo field's shares."""
        bands = zip(self.widths, self.bands, strict=True)
        return (*(width * band.resolution.subframes for width, band in bands), 2 * STEREO_BANDS)

    @property
    def analysis_reach(self) -> int:
        """Latent frames on either side whose audio is in a frame's features."""
        low = self.bands[0].resolution
        return math.ceil((low.fft_size - low.fft_hop) / 2 / HOP)

    @property
    def synthesis_reach(self) -> int:
        """Latent frames on either side whose features are in a frame's audio."""
        return math.ceil((self.reconstruction.reach + self.high.fft_size) / HOP)

    def analyse(self, audio: Tensor) -> Tensor:
        """`[B, 2, N * HOP]` -> `[B, N, sum(sizes)]`: natural logs of magnitudes, then shares of power."""
        batch, _, samples = audio.shape
        channels = audio.flatten(0, 1)
        spectra = [band.resolution.analyse(channels).unflatten(0, (batch, 2)) for band in self.bands]
        low, middle, high = (x[:, :, b.bins].abs().square().mean(1) for x, b in zip(spectra, self.bands, strict=True))
        logs = [_per_frame(_log(power), samples // HOP) for power in (low, middle, self.groups @ high)]
        return torch.cat([*logs, self._stereo_shares(spectra[-1])], dim=-1)

    def _stereo_shares(self, spectra: Tensor) -> Tensor:
        """Spectra of the highs `[B, 2, bins, 4N]` -> the left's and mid's shares `[B, N, 2 * STEREO_BANDS]`."""
        power = spectra.abs().square()
        sums = torch.stack([power[:, 0], power.sum(1), (spectra[:, 0] + spectra[:, 1]).abs().square() / 2], dim=1)
        banded = (self.stereo @ sums).unflatten(-1, (-1, self.high.subframes)).mean(-1) + POWER_FLOOR
        left, total, mid = banded.unbind(1)
        silent = total < 4 * POWER_FLOOR
        return torch.cat([torch.where(silent, 0.5, left / total), torch.where(silent, 1.0, mid / total)], dim=1).mT

    def synthesise(self, features: Tensor, position: int | Tensor) -> Tensor:
        """`[B, N, sum(sizes)]` of frames from `position` on -> `[B, 2, N * HOP]`."""
        *logs, shares = features.split(self.sizes, dim=-1)
        magnitudes = [
            _magnitude(_per_subframe(log, band.resolution.subframes))
            for log, band in zip(logs, self.bands, strict=True)
        ]
        magnitudes[-1] = magnitudes[-1][:, self.group_of_bin]
        mono = self.reconstruction(magnitudes, position)
        spectrum = self.high.analyse(mono)
        return torch.stack([self.high.synthesise(spectrum * gain) for gain in self._stereo_gains(shares)], dim=1)

    def _stereo_gains(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Complex gains of left and right, each `[B, bins, 4N]`, from the shares of power `[B, N, 2 * STEREO_BANDS]`.

        With magnitudes A sqrt(2 l) and A sqrt(2 (1 - l)) and a phase difference d, mid has the share
        1/2 + sqrt(l (1 - l)) cos d. Neighbouring bands turn opposite ways.
        """
        left, mid = shares.chunk(2, dim=-1)
        left = left.clamp(LEFT_MARGIN, 1 - LEFT_MARGIN)
        half_difference = torch.acos(((mid - 0.5) / (left * (1 - left)).sqrt()).clamp(-1, 1)) / 2
        left, half_difference = (self._smooth(x)[:, self.stereo_of_bin] for x in (left, half_difference))
        turn = half_difference * self.stereo_sign[:, None]
        return torch.polar((2 * left).sqrt(), turn), torch.polar((2 - 2 * left).sqrt(), -turn)

    def _smooth(self, x: Tensor) -> Tensor:
        """Per frame to per sub-frame, linearly between the frames' centres: `[B, N, C]` -> `[B, C, N * subframes]`."""
        return nn.functional.interpolate(x.mT, scale_factor=self.high.subframes, mode="linear", align_corners=False)


def _groups(bins: slice, bin_hz: float) -> Tensor:
    """For each bin the index of its group; up to SINGLE_BINS_TO_HZ every bin is one."""
    owner, group, next_hz = [], -1, 0.0
    for index in range(bins.start, bins.stop):
        frequency_hz = index * bin_hz
        if frequency_hz >= next_hz:
            group += 1
            width_hz = next((width for limit, width in COARSE_TO_HZ if frequency_hz < limit), 2 * bin_hz)
            next_hz = frequency_hz + (bin_hz if frequency_hz < SINGLE_BINS_TO_HZ else width_hz)
        owner.append(group)
    return torch.tensor(owner)


def _log(power: Tensor) -> Tensor:
    return torch.log(power.sqrt() + LOG_FLOOR)


def _magnitude(log_magnitude: Tensor) -> Tensor:
    """The inverse of `_log`, limited to 26 dB over a full-scale sinusoid."""
    return (torch.exp(log_magnitude.clamp(max=3.0)) - LOG_FLOOR).clamp_min(0)


def _per_frame(x: Tensor, frames: int) -> Tensor:
    """`[B, C, frames * subframes]` -> `[B, frames, subframes * C]`."""
    return x.transpose(1, 2).reshape(x.shape[0], frames, -1)


def _per_subframe(x: Tensor, subframes: int) -> Tensor:
    """The inverse of `_per_frame`."""
    return x.unflatten(-1, (subframes, -1)).flatten(1, 2).transpose(1, 2)
