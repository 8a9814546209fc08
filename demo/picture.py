# SPDX-License-Identifier: Apache-2.0
"""The picture of a bounce: source and result as spectrograms, the drawn lanes under them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from shared_protocol.codec import Floats
from shared_protocol.lanes import load_lanes
from shared_protocol.timebase import FRAMES_PER_SECOND

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FFT, HOP = 2048, 512
FLOOR_DB = -90
TOP_HZ = 12_000
TOP_PROMPTS_HZ = 5_000


def draw(path: Path, source: Floats, result: Floats, rate: int, lanes: Mapping[str, Floats], *, title: str) -> None:
    """Write a PNG. Audio is `[2, N]`; lanes have a value per frame."""
    figure, axes = plt.subplots(
        2 + len(lanes),
        1,
        figsize=(12, 8),
        sharex=True,
        height_ratios=[3, 3] + [1] * len(lanes),
        constrained_layout=True,
    )
    figure.suptitle(title)
    for axis, audio, name in zip(axes, (source, result), ("source", "bounce"), strict=False):
        _draw_spectrogram(axis, audio, rate, TOP_HZ)
        axis.set_ylabel(f"{name}\nkHz")
    for axis, (lane_id, values) in zip(axes[2:], lanes.items(), strict=True):
        lane = load_lanes()[lane_id]
        axis.step(np.arange(len(values)) / FRAMES_PER_SECOND, values, where="post", color="tab:orange")
        axis.set_ylim(lane.minimum - 0.05, lane.maximum + 0.05)
        axis.set_ylabel(lane.name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_prompts(path: Path, results: Mapping[str, Floats], rate: int) -> None:
    """Write a PNG with the spectrogram of each result `[2, N]` under its name."""
    figure, axes = plt.subplots(len(results), 1, figsize=(12, 2.4 * len(results)), sharex=True, constrained_layout=True)
    for axis, (name, audio) in zip(axes, results.items(), strict=True):
        _draw_spectrogram(axis, audio, rate, TOP_PROMPTS_HZ)
        axis.set_ylabel("kHz")
        axis.set_title(name, loc="left")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_spectrogram(axis: Axes, audio: Floats, rate: int, top_hz: float) -> None:
    decibels, seconds = spectrogram(audio.mean(axis=0), rate)
    extent = (0, seconds, 0, rate / 2 / 1000)
    axis.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=FLOOR_DB, vmax=0)
    axis.set_ylim(0, top_hz / 1000)


def spectrogram(mono: Floats, rate: int) -> tuple[Floats, float]:
    """Magnitudes in dB below the loudest, `[bins, columns]`, and the seconds that they cover."""
    columns = 1 + (len(mono) - FFT) // HOP
    windows = np.lib.stride_tricks.sliding_window_view(mono, FFT)[::HOP][:columns]
    magnitude = np.abs(np.fft.rfft(windows * np.hanning(FFT))).T
    decibels = 20 * np.log10(magnitude / max(float(magnitude.max()), 1e-9) + 1e-9)
    return decibels.astype(np.float32), columns * HOP / rate
