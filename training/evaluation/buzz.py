# SPDX-License-Identifier: Apache-2.0
"""The buzz of a codec: loudness that moves at the rate of its frames, where the original's does not."""

from __future__ import annotations

import torch
from torch import Tensor

from training.evaluation.spectra import SAMPLE_RATE, htk_mel_filters, mono, same_length, spectrum

FRAME_RATES_HZ = (25, 50, 100)
"""The latents' rate, and those of the sub-frames that decoders work with."""
FFT_SIZE, HOP = 512, 96
ENVELOPE_HZ = SAMPLE_RATE / HOP
BANDS = 24
SEGMENT_S = 4.0
LINE_HZ = 0.5
"""Half the width of a line of the modulation spectrum."""
AROUND_HZ = 4.0
"""How far its surroundings reach, on either side."""


def modulation_spectrum(audio: Tensor) -> Tensor:
    """Power of the modulation of band envelopes, by frequency in steps of 1/4 Hz up to 250 Hz.

    Envelopes are magnitudes of 24 mel bands (FFT 512, every 2 ms) relative to their mean. Bands count by their mean
    magnitude; segments of 4 s are averaged. A signal shorter than that is repeated.
    """
    signal = mono(audio)
    least = round(SEGMENT_S * SAMPLE_RATE)
    if len(signal) < least:
        signal = signal.repeat(-(-least // max(1, len(signal))))
    envelopes = htk_mel_filters(BANDS, FFT_SIZE) @ spectrum(signal, FFT_SIZE, HOP).abs()
    length = round(SEGMENT_S * ENVELOPE_HZ)
    segments = envelopes.unfold(1, length, length // 2)  # [bands, segments, length]
    mean = segments.mean(-1, keepdim=True)
    weight = mean[..., 0] / mean[..., 0].sum().clamp_min(1e-9)
    moved = (segments / mean.clamp_min(1e-7) - 1) * torch.hann_window(length)
    power = torch.fft.rfft(moved).abs().square() / length
    return (weight[..., None] * power).sum((0, 1))


def buzz(original: Tensor, reconstruction: Tensor) -> dict[str, float]:
    """`energy_db`: modulation power at 25, 50 and 100 Hz together, against the original's. `line_db`: how far the most
    prominent of the three lines stands above its surroundings (4 Hz on either side), less the original's.

    Noise in place of tones raises the first; only what is locked to the frames raises the second.
    """
    a, b = same_length(original, reconstruction)
    before, after = modulation_spectrum(a), modulation_spectrum(b)
    energy = sum(_line(after, hz) for hz in FRAME_RATES_HZ) / sum(_line(before, hz) for hz in FRAME_RATES_HZ)
    lines = [_prominence_db(after, hz) - _prominence_db(before, hz) for hz in FRAME_RATES_HZ]
    return {"energy_db": float(10 * torch.log10(torch.as_tensor(energy))), "line_db": max(lines)}


def _line(power: Tensor, hz: float) -> Tensor:
    return power[round((hz - LINE_HZ) * SEGMENT_S) : round((hz + LINE_HZ) * SEGMENT_S) + 1].mean() + 1e-9


def _prominence_db(power: Tensor, hz: float) -> float:
    low, high = (
        power[round(start * SEGMENT_S) : round(stop * SEGMENT_S)]
        for start, stop in ((hz - AROUND_HZ, hz - 2 * LINE_HZ), (hz + 2 * LINE_HZ, hz + AROUND_HZ))
    )
    return float(10 * torch.log10(_line(power, hz) / (torch.cat([low, high]).mean() + 1e-9)))
