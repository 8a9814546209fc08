# SPDX-License-Identifier: Apache-2.0
"""One level of a discrete wavelet transform along time, float32, samples outside the signal being zero.

Both bands travel together as `[R, 2, K, C]`, low before high. The sums run tap by tap over whole tensors: elementwise
operations give every row the same bits whatever the batch, which a convolution library does not promise.
Mathematics: Mallat, A Wavelet Tour of Signal Processing (2009), 7.3; filters and alignment as in PyWavelets' mode `zero`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pywt
import torch
from torch import Tensor

from engine_server.diffusion.upload import upload


@dataclass(frozen=True)
class Wavelet:
    """The filters of a discrete wavelet, F taps each (F is even): plain numbers, so that equal wavelets compare equal."""

    analysis: tuple[tuple[float, ...], tuple[float, ...]]
    """Low and high."""
    synthesis: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def named(cls, name: str) -> Wavelet:
        """The wavelet that PyWavelets knows by this name. Raises ValueError for an unknown or a continuous one."""
        try:
            found = pywt.Wavelet(name)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"wavelet is {name!r}; the name of a discrete wavelet is expected ({error})") from error
        return cls(
            analysis=(tuple(found.dec_lo), tuple(found.dec_hi)),
            synthesis=(tuple(found.rec_lo), tuple(found.rec_hi)),
        )

    @property
    def taps(self) -> int:
        """F."""
        return len(self.analysis[0])

    def band_length(self, frames: int) -> int:
        """K, the coefficients per band of a signal of so many frames."""
        return (frames + self.taps - 1) // 2


@dataclass(frozen=True)
class FilterBank:
    """A wavelet's filters on a device, in the order in which the sums below read them."""

    analysis: Tensor
    """`[F, 2, 1, 1]`: tap, band."""
    synthesis: Tensor
    """`[F / 2, 2, 1, 2, 1]`: shift, band, -, parity of the output frame."""

    @classmethod
    def of(cls, wavelet: Wavelet, device: str | torch.device = "cpu") -> FilterBank:
        """The bank of one wavelet."""
        analysis = torch.tensor(wavelet.analysis, dtype=torch.float32).flip(1).T[:, :, None, None]
        pairs = torch.tensor(wavelet.synthesis, dtype=torch.float32).view(2, -1, 2).flip(1)
        synthesis = pairs.transpose(0, 1)[:, :, None, :, None]
        return cls(upload(analysis.contiguous(), device), upload(synthesis.contiguous(), device))


def analyse(bank: FilterBank, signal: Tensor) -> Tensor:
    """The bands `[R, 2, K, C]` of a signal `[R, T, C]`: `band[k] = sum_j h[F-1-j] x[2k - (F-2) + j]`."""
    taps, frames = len(bank.analysis), signal.shape[1]
    count = (frames + taps - 1) // 2
    padded = torch.nn.functional.pad(signal, (0, 0, taps - 2, 2 * count - frames))[:, None]
    bands = bank.analysis[0] * padded[:, :, 0 : 2 * count : 2]
    for tap in range(1, taps):
        bands += bank.analysis[tap] * padded[:, :, tap : tap + 2 * count : 2]
    return bands


def synthesise(bank: FilterBank, bands: Tensor, frames: int) -> Tensor:
    """The signal `[R, T, C]` of bands `[R, 2, K, C]`: `y[m] = sum_k g[m + F-2 - 2k] band[k]` over both bands, first T frames.

    An even and an odd frame read the same F / 2 coefficients, so they are built as pairs.
    """
    shifts = len(bank.synthesis)
    pairs = bands.shape[2] - shifts + 1
    bands = bands.unsqueeze(3)
    signal = bands.new_zeros(bands.shape[0], pairs, 2, bands.shape[4])
    for shift in range(shifts):
        window = bands[:, :, shift : shift + pairs]
        signal += bank.synthesis[shift, 0] * window[:, 0]
        signal += bank.synthesis[shift, 1] * window[:, 1]
    return signal.flatten(1, 2)[:, :frames]
