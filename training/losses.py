# SPDX-License-Identifier: Apache-2.0
"""Codec losses and figures, on mid and side. Audio is [B, 2, S] in full scale +-1 at 48 kHz.

Waveform and complex spectrum must lead: when log-magnitudes dominate from the start, the model settles on a smooth
envelope and never learns phase (measured on this architecture).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine_server.model.spectral_codec import mel_filter_bank

SAMPLE_RATE = 48000
PHASE_LIMIT_HZ = 1100.0  # complex terms stop here: above, the decoder makes noise
EDGE = 960  # samples at each end without full window overlap, left out of the losses
SIDE_WEIGHT = 0.5
LOG_FLOOR = 1e-3
WAVE_FFTS = (2048, 512)
MAGNITUDE_FFTS = ((2048, 128), (512, 64), (128, 0))  # FFT size, mel bands

_mel_cache: dict[tuple[int, int], Tensor] = {}


def mel_filters(fft_size: int, bands: int) -> Tensor:
    """Filter bank [bands, bins], built once per size."""
    key = (fft_size, bands)
    if key not in _mel_cache:
        _mel_cache[key] = mel_filter_bank(SAMPLE_RATE, fft_size, bands)
    return _mel_cache[key]


def spectrum(x: Tensor, fft_size: int) -> Tensor:
    """Complex STFT of [N, S] at a quarter hop: [N, bins, frames]."""
    window = torch.hann_window(fft_size)
    return torch.stft(x, fft_size, fft_size // 4, window=window, return_complex=True) / math.sqrt(fft_size)


def mid_side(x: Tensor) -> Tensor:
    """[B, 2, S] to [2B, S'], mids first, without the edges."""
    x = x[..., EDGE:-EDGE]
    return torch.cat([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]]) / 2


def _compress(spec: Tensor, magnitude: Tensor) -> Tensor:
    return spec * (magnitude + 1e-4).pow(-0.6)


class CodecLoss:
    """Both losses of one pair of signals; the spectra are computed once and shared."""

    def __init__(self, predicted: Tensor, target: Tensor):
        self.y, self.x = mid_side(predicted), mid_side(target)
        batch = len(predicted)
        self.weight = torch.cat([torch.ones(batch), torch.full((batch,), SIDE_WEIGHT)])[:, None, None]
        self._spectra: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def _pair(self, fft_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if fft_size not in self._spectra:
            y, x = spectrum(self.y, fft_size), spectrum(self.x, fft_size)
            self._spectra[fft_size] = (y, x, (y.real.square() + y.imag.square() + 1e-12).sqrt(), x.abs())
        return self._spectra[fft_size]

    def _wave(self) -> Tensor:
        return (self.y - self.x).abs().mean() / (self.x.abs().mean() + 1e-3)

    def _log_difference(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.weight * (torch.log(a + LOG_FLOOR) - torch.log(b + LOG_FLOOR)).abs()).mean()

    def waveform_led(self) -> Tensor:
        """Waveform L1, compressed complex spectra below PHASE_LIMIT_HZ, and a little log-magnitude."""
        total = 2 * self._wave()
        for size in WAVE_FFTS:
            y, x, a, b = self._pair(size)
            low = round(PHASE_LIMIT_HZ * size / SAMPLE_RATE)
            y, x, a_low, b_low = y[:, :low], x[:, :low], a[:, :low], b[:, :low]
            difference = (self.weight * (_compress(y, a_low) - _compress(x, b_low)).abs()).mean()
            total = total + 2 * difference / (b_low.pow(0.4).mean() + 1e-2) + 0.15 * self._log_difference(a, b)
        return total

    def magnitude_led(self) -> Tensor:
        """Multi-resolution log and linear magnitudes, log-mel, a little complex spectrum and waveform."""
        total = 0.5 * self._wave()
        for size, bands in MAGNITUDE_FFTS:
            y, x, a, b = self._pair(size)
            scale = b.mean() + 1e-3
            total = total + self._log_difference(a, b) + 0.5 * (self.weight * (a - b).abs()).mean() / scale
            if bands:
                low = round(PHASE_LIMIT_HZ * size / SAMPLE_RATE)
                complex_l1 = (self.weight * (y[:, :low] - x[:, :low]).abs()).mean()
                total = total + 0.25 * complex_l1 / (b[:, :low].mean() + 1e-3)
                filters = mel_filters(size, bands)
                total = total + self._log_difference(filters @ a, filters @ b)
        return total


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """To the unit normal, nats per latent number."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def _si_sdr_db(y: Tensor, x: Tensor) -> float:
    gain = (y * x).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True).clamp_min(1e-8)
    target = gain * x
    ratio = target.square().sum(-1) / (y - target).square().sum(-1).clamp_min(1e-10)
    return (10 * torch.log10(ratio.clamp_min(1e-3))).mean().item()


def _below(x: Tensor, limit_hz: float) -> Tensor:
    spec = torch.fft.rfft(x)
    spec[..., int(limit_hz / SAMPLE_RATE * x.shape[-1]) :] = 0
    return torch.fft.irfft(spec, x.shape[-1])


@torch.no_grad()
def figures(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """On the mono mix: SI-SDR and SI-SDR below 1 kHz in dB, log-mel L1 in nats (80 bands, floor 1e-4)."""
    y, x = predicted.mean(1), target.mean(1)
    a, b = spectrum(y, 2048).abs(), spectrum(x, 2048).abs()
    filters = mel_filters(2048, 80)
    log_mel = (torch.log(filters @ a + 1e-4) - torch.log(filters @ b + 1e-4)).abs().mean().item()
    return {
        "si_sdr_db": _si_sdr_db(y, x),
        "si_sdr_below_1khz_db": _si_sdr_db(_below(y, 1000), _below(x, 1000)),
        "log_mel_l1_nat": log_mel,
    }
