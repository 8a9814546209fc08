# SPDX-License-Identifier: Apache-2.0
"""Spectrogram pictures, to look at what the figures do not say."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from training.losses import SAMPLE_RATE, spectrum

LIMITS_HZ = (2000, 16000)
SECONDS = 6.0
FFT_SIZE = 4096


def save_spectrograms(path: Path, signals: dict[str, Tensor]) -> None:
    """The mono mix of each [2, S] signal, its first seconds, at two frequency ranges."""
    figure, axes = plt.subplots(len(signals), len(LIMITS_HZ), figsize=(16, 4 * len(signals)), squeeze=False)
    for row, (name, audio) in zip(axes, signals.items(), strict=True):
        mono = audio.mean(0)[: round(SECONDS * SAMPLE_RATE)]
        level_db = 20 * torch.log10(spectrum(mono[None], FFT_SIZE)[0].abs() + 1e-5)
        for axis, limit_hz in zip(row, LIMITS_HZ, strict=True):
            bins = round(limit_hz / SAMPLE_RATE * FFT_SIZE)
            extent = (0, len(mono) / SAMPLE_RATE, 0, limit_hz)
            axis.imshow(level_db[:bins].numpy(), origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=20)
            axis.set_title(f"{name}, to {limit_hz} Hz")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)
