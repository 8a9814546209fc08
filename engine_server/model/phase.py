# SPDX-License-Identifier: Apache-2.0
"""Audio from magnitudes: phases laid on a grid of absolute time, then a few Griffin-Lim iterations.

A magnitude spectrum says nothing about phase, and a decoder of bounded reach cannot accumulate one over time, as a
phase vocoder does. So every partial is given the phase that a sinusoid of its frequency has at its absolute position,
the frequency being rounded to a multiple of 1.25 Hz: all those are at phase 0 again every 0.8 s (`PERIOD_FRAMES`), so
the position is needed modulo that only, and a window decoded alone gets the phases of the whole. Bins around a peak
share its phase (identity phase locking, Laroche and Dolson 1999), bins without a clear peak get a phase from a hash of
their place, which is noise that begins again after 12.8 s (`POSITION_PERIOD`). Griffin-Lim iterations (Griffin and Lim
1984), over those bands at once that ask for it, then make neighbouring frames agree. Each iteration reaches `fft_size`
samples to either side, and that is counted in the decoder's margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine_server.model.fourier import irfft, rfft

SAMPLE_RATE = 48000
HOP = 1920  # samples per latent frame
PERIOD_FRAMES = 20  # frames after which all frequencies of the grid are in phase again
POSITION_PERIOD = 16 * PERIOD_FRAMES  # frames after which the noise is the same again: longer than one hears as a loop
GRID_HZ = SAMPLE_RATE / HOP / PERIOD_FRAMES
COARSER_GRID = ((160.0, 2), (640.0, 4), (1280.0, 8), (2560.0, 16), (5120.0, 32))  # from this frequency, times GRID_HZ
SMOOTHING = (
    0.25,
    0.5,
    0.25,
)  # of successive sub-frames, before peaks are looked for: a frequency that flutters is noise
TONAL_PROMINENCE = math.log(1.4)  # a peak this much above its surroundings (3 dB) is a partial
PROMINENCE_REACH = 4  # bins on either side that count as surroundings
LEVEL_FLOOR = 1e-5
NOISE_GAIN = (
    2.3  # random phases in the overlap of four windows lose half of the amplitude, and bins taken for partials more
)
ITERATED_NOISE_GAIN = 1.5  # the iterations give back a part of that


class Resolution(nn.Module):
    """One short-time Fourier transform with Hann windows centred on sub-frames, four deep in overlap.

    A module for the sake of its window, which moves with the codec: copied at every use it would make a GPU wait each time.
    """

    window: Tensor

    def __init__(self, fft_size: int):
        super().__init__()
        self.fft_size = fft_size
        self.fft_hop = fft_size // 4
        self.subframes = HOP // self.fft_hop
        self.bins = fft_size // 2 + 1
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def analyse(self, x: Tensor) -> Tensor:
        """Samples `[B, S]` -> spectra `[B, bins, S / fft_hop]`; a full-scale sinusoid's peak is 1."""
        pad = (self.fft_size - self.fft_hop) // 2
        frames = F.pad(x, (pad, pad)).unfold(-1, self.fft_size, self.fft_hop) * self.window.to(x)
        return rfft(frames).mT * (4 / self.fft_size)

    def synthesise(self, spectrum: Tensor, first_bin: int = 0) -> Tensor:
        """The least-squares inverse of `analyse`: bins from `first_bin` on `[B, some bins, T]` -> `[B, T * fft_hop]`."""
        padded_bins = F.pad(spectrum.transpose(1, 2), (first_bin, 0))
        frames = irfft(padded_bins, self.fft_size)
        frames = frames * (self.window.to(frames) * (self.fft_size / 4))
        batch, count, _ = frames.shape
        quarters = frames.view(batch, count, 4, self.fft_hop)
        padded = quarters.new_zeros(batch, count + 3, self.fft_hop)
        for quarter in range(4):
            padded[:, quarter : quarter + count] += quarters[:, :, quarter]
        pad = (self.fft_size - self.fft_hop) // 2
        # Squared Hann windows at a quarter's hop add up to 1.5 everywhere but at the edges of the whole span.
        return padded.flatten(1)[:, pad : pad + count * self.fft_hop] / 1.5

    def sub_frames(self, frames: int, position: int | Tensor, device: torch.device) -> Tensor:
        """Places of the sub-frames' centres, in sub-frames modulo `POSITION_PERIOD`: float64 `[frames * subframes]`."""
        start = position % POSITION_PERIOD * self.subframes
        steps = torch.arange(frames * self.subframes, device=device, dtype=torch.float64) + 0.5
        return torch.remainder(steps + start, POSITION_PERIOD * self.subframes)


@dataclass(frozen=True)
class Band:
    """A part of the spectrum and the resolution it is seen at. It fades in and out over half a cosine.

    `from_hz`, `to_hz`: where each fade begins and ends. `is_iterated`: whether Griffin-Lim works on it.
    """

    resolution: Resolution
    from_hz: tuple[float, float]
    to_hz: tuple[float, float]
    is_iterated: bool

    @property
    def bins(self) -> slice:
        """The bins that are in the band at all."""
        bin_hz = SAMPLE_RATE / self.resolution.fft_size
        last = min(math.ceil(self.to_hz[1] / bin_hz), self.resolution.bins - 1)
        return slice(max(math.floor(self.from_hz[0] / bin_hz), 0), last + 1)

    @property
    def weight(self) -> Tensor:
        """Each bin's share, `[bins]`: those of neighbouring bands add up to 1 at each frequency."""
        frequency_hz = torch.arange(self.bins.start, self.bins.stop) * (SAMPLE_RATE / self.resolution.fft_size)
        return _rise(frequency_hz, self.from_hz) * (1 - _rise(frequency_hz, self.to_hz))


def anchored_phases(magnitude: Tensor, band: Band, position: int | Tensor) -> tuple[Tensor, Tensor]:
    """Phase of each of a band's bins, and whether it belongs to a partial: `[B, bins, T]` -> two `[B, bins, T]`."""
    _, bins, count = magnitude.shape
    resolution, first_bin = band.resolution, band.bins.start
    level = torch.log(_smooth(magnitude) + LEVEL_FLOOR)
    around = F.pad(level, (0, 0, 1, 1), value=math.inf)
    below, above = around[:, :-2], around[:, 2:]
    is_peak = (level > below) & (level >= above)
    reach = PROMINENCE_REACH
    surroundings = F.avg_pool1d(level.mT, 2 * reach + 1, 1, reach, count_include_pad=False).mT
    is_partial = is_peak & (level - surroundings > TONAL_PROMINENCE)
    bend = (below - 2 * level + above).clamp(max=-1e-4)
    offset = torch.where(is_partial, (0.5 * (below - above) / bend).clamp(-0.5, 0.5), 0.0)  # a parabola's vertex
    index = torch.arange(bins, device=level.device)[:, None].expand_as(level)
    lower = torch.where(is_partial, index, -bins).cummax(1).values
    upper = torch.where(is_partial, index, 3 * bins).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(index - lower <= upper - index, lower, upper)
    owned = (nearest - index).abs() <= PROMINENCE_REACH
    peak_bin = nearest.clamp(0, bins - 1)
    bin_hz = SAMPLE_RATE / resolution.fft_size
    frequency_hz = round_to_grid((first_bin + peak_bin + offset.gather(1, peak_bin)) * bin_hz)
    places = resolution.sub_frames(count // resolution.subframes, position, level.device)
    times = torch.remainder(places, PERIOD_FRAMES * resolution.subframes) * (resolution.fft_hop / SAMPLE_RATE)
    turns = torch.remainder(frequency_hz.double() * times, 1.0).to(magnitude.dtype)
    # A Hann window centred on the sub-frame has a real transform whose sign alternates from bin to bin when time
    # counts from the window's first sample.
    phase = 2 * math.pi * turns + math.pi * (first_bin + index)
    noise = 2 * math.pi * hashed_noise(first_bin + index, places).to(magnitude.dtype)
    return torch.where(owned, phase, noise), owned


def _smooth(magnitude: Tensor) -> Tensor:
    """Each sub-frame averaged with its neighbours: `[B, bins, T]` -> the same."""
    before, here, after = SMOOTHING
    around = torch.cat([magnitude[..., :1], magnitude, magnitude[..., -1:]], dim=-1)
    return before * around[..., :-2] + here * magnitude + after * around[..., 2:]


def round_to_grid(frequency_hz: Tensor) -> Tensor:
    """To the nearest frequency that is in phase with the grid: within 1.25 Hz below 640 Hz, within 0.4 % above."""
    step = torch.full_like(frequency_hz, GRID_HZ)
    for from_hz, factor in COARSER_GRID:
        step = torch.where(frequency_hz > from_hz, GRID_HZ * factor, step)
    return torch.round(frequency_hz / step) * step


def hashed_noise(index: Tensor, places: Tensor) -> Tensor:
    """Numbers in [0, 1] that look random in bin and sub-frame, of bins and of `sub_frames`: `[B, bins, T]`."""
    place = torch.round(places * 2).to(torch.int64)
    mixed = (index * 73856093) ^ (place * 19349663)
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0x7FFFFFFF
    mixed = ((mixed ^ (mixed >> 11)) * 668265263) & 0x7FFFFFFF
    return (mixed ^ (mixed >> 15)).float() / 2147483648.0


class Reconstruction(nn.Module):
    """Signals from the magnitudes of bands, at resolutions that suit them; at least one of them is iterated."""

    def __init__(self, bands: Sequence[Band], iterations: int):
        super().__init__()
        self.bands, self.iterations = tuple(bands), iterations
        self.resolutions = nn.ModuleList([band.resolution for band in self.bands])
        for number, band in enumerate(self.bands):
            self.register_buffer(f"weight_{number}", band.weight[:, None], persistent=False)

    @property
    def reach(self) -> int:
        """Samples on either side of a sample whose magnitudes matter."""
        guesses = {band: band.resolution.fft_size // 2 + band.resolution.fft_hop for band in self.bands}
        iterated = [band for band in self.bands if band.is_iterated]
        window = max(band.resolution.fft_size for band in iterated)
        return max(*guesses.values(), max(guesses[band] for band in iterated) + self.iterations * window)

    def forward(self, magnitudes: Sequence[Tensor], position: int | Tensor) -> Tensor:
        """Each band's magnitudes `[B, its bins, N * its sub-frames]` of latent frames from `position` on -> `[B, N * HOP]`."""
        # Peaks are looked for before the bands fade: a slope would shift them, and the two bands that share a partial
        # would lay it at two frequencies, which beat.
        phases = [anchored_phases(m, band, position) for m, band in zip(magnitudes, self.bands, strict=True)]
        targets = [m * self.get_buffer(f"weight_{number}").to(m) for number, m in enumerate(magnitudes)]
        signals = [_first_guess(m, *p, band) for m, p, band in zip(targets, phases, self.bands, strict=True)]
        for _ in range(self.iterations):
            heard = torch.stack([x for x, band in zip(signals, self.bands, strict=True) if band.is_iterated]).sum(0)
            signals = [
                _impose(m, band, heard) if band.is_iterated else x
                for x, m, band in zip(signals, targets, self.bands, strict=True)
            ]
        return torch.stack(signals).sum(0)


def _first_guess(magnitude: Tensor, phase: Tensor, is_partial: Tensor, band: Band) -> Tensor:
    """The band's signal with the phases of `anchored_phases`: `[B, bins, T]` thrice -> `[B, S]`."""
    noise_gain = ITERATED_NOISE_GAIN if band.is_iterated else NOISE_GAIN
    spectrum = torch.polar(magnitude * torch.where(is_partial, 1.0, noise_gain), phase)
    return band.resolution.synthesise(spectrum, band.bins.start)


def _impose(magnitude: Tensor, band: Band, signal: Tensor) -> Tensor:
    """One Griffin-Lim iteration: the signal's phases with the band's magnitudes."""
    spectrum = band.resolution.analyse(signal)[:, band.bins]
    return band.resolution.synthesise(spectrum * (magnitude / spectrum.abs().clamp_min(1e-9)), band.bins.start)


def _rise(frequency_hz: Tensor, over_hz: tuple[float, float]) -> Tensor:
    """0 below, 1 above, half a cosine between."""
    begin, end = over_hz
    return 0.5 - 0.5 * torch.cos(math.pi * ((frequency_hz - begin) / max(end - begin, 1e-3)).clamp(0, 1))
