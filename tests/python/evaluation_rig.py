# SPDX-License-Identifier: Apache-2.0
"""Music and a codec for tests of the evaluation, made without soundfonts or training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.evaluation.spectra import SAMPLE_RATE
from training.instruments import FAMILIES
from training.renders import Take


class Lossless:
    """A codec whose latents are the samples themselves, scaled by a gain."""

    sample_rate = SAMPLE_RATE
    hop = 1920
    latent_channels = 2 * hop
    encoder_margin = decoder_margin = 1
    position_period = 1
    fixed_span = None

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def encode(self, audio, generator=None):
        return self.posterior(audio)[0]

    def posterior(self, audio):
        mean = audio.reshape(len(audio), 2, -1, self.hop).transpose(1, 2).flatten(2)
        return mean, torch.zeros_like(mean)

    def decode(self, latents, position=0):
        frames = latents.reshape(len(latents), -1, 2, self.hop)
        return self.gain * frames.transpose(1, 2).flatten(2)


def tones(seconds: float, *frequencies: float, pan: float = 0.5) -> Tensor:
    """Steady tones at -20 dBFS or so, `[2, S]`; pan 0 is left, 1 is right."""
    time = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    signal = sum(torch.sin(2 * math.pi * hz * time) for hz in frequencies) * 0.14 / max(1, len(frequencies)) ** 0.5
    gains = torch.tensor([math.sqrt(1 - pan), math.sqrt(pan)]) * math.sqrt(2)
    return (gains[:, None] * signal).float()


def noise(seconds: float, seed: int = 0) -> Tensor:
    """White noise at -20 dBFS, other on each side."""
    return 0.1 * torch.randn(2, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(seed))


def clicks(seconds: float, bpm: float) -> Tensor:
    """Short bursts of noise at a tempo."""
    audio, burst = torch.zeros(2, round(seconds * SAMPLE_RATE)), noise(0.02)
    step = round(60 / bpm * SAMPLE_RATE)
    for start in range(0, audio.shape[1] - burst.shape[1], step):
        audio[:, start : start + burst.shape[1]] = burst
    return audio


class MadeUp:
    """Stands in for the held-out renders: every take of a piece is its tones, with more or fewer harmonics."""

    pieces = 2

    def takes(self, piece: int) -> list[Take]:
        families = FAMILIES[6 * (piece % 2) :][:6]
        return [Take(each.name, each.variants[0].words, (), "none.sf2", each.variants[0].programs) for each in families]

    def audio(self, piece: int, take: int, *, first_s: float = 0.0, seconds: float | None = None) -> Tensor:
        harmonics = [220.0 * (1 + piece) * (1 + harmonic) for harmonic in range(1 + take)]
        return tones(12.0 - first_s if seconds is None else seconds, *harmonics)


class Deaf:
    """Stands in for the judge: hears the same in everything."""

    own_accuracy = (1, 12)

    def hears(self, audio: Tensor) -> str:
        return FAMILIES[0].name
