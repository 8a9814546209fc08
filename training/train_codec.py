# SPDX-License-Identifier: Apache-2.0
"""Trains the codec's network on spectra, in two resumable stages: `codec`, then the decoder alone on noisy latents.

    python -m training.train_codec codec --work DIR
    python -m training.train_codec decoder --work DIR

A stage writes `<size>/codec_<stage>.pt`; run again, it resumes. After `codec` the encoder is final, so the latents can
be cached while `decoder` still runs. The decoder's stage adds noise to the latents, as a transformer's errors will.
"""

from __future__ import annotations

import argparse
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import RMS, encoder_hash, load_codec
from training.loop import Plan, run, run_stage_command
from training.losses import FeatureLoss, kl_divergence
from training.renders import Renders, data_hash
from training.sizes import SIZES
from training.store import state_path

FRAMES = 64  # per training excerpt: 2.56 s
EDGE = 4  # frames on either side that are seen but not judged
BATCH = 10
GAIN_DB = (-14.0, 5.0)
READ_AHEAD = 4  # steps
RECORDING_SHARE, MIX_SHARE = 0.35, 0.15
STATISTICS_STEPS = range(1_000_000, 1_000_012)  # batches that training never reaches
LOG_VARIANCE_RANGE = (-9.0, 4.0)


@dataclass(frozen=True)
class Stage:
    """What one stage optimises. `noise`: up to this many of a latent's standard deviations are added."""

    previous: str | None
    steps: int
    learning_rate: float
    kl: float
    noise: float
    trains_encoder: bool


STAGES = {
    "codec": Stage(None, 2800, 1.5e-3, 5e-4, 0.0, True),
    "decoder": Stage("codec", 1900, 8e-4, 0.0, 0.25, False),
}


class Excerpts:
    """Random excerpts of renders and recordings; a batch is a function of the step alone.

    The next batches are read ahead: the renders are larger than most machines' memory.
    """

    def __init__(self, work: Path, samples: int):
        self.renders = Renders(work)
        self.recordings = np.load(work / "recordings.npy", mmap_mode="r")
        self.samples = samples
        self._readers = ThreadPoolExecutor(READ_AHEAD)
        self._ahead: dict[int, Future[Tensor]] = {}

    def batch(self, step: int) -> Tensor:
        """The excerpts of a step: [BATCH, 2, S]."""
        for coming in range(step, step + READ_AHEAD):
            if coming not in self._ahead:
                self._ahead[coming] = self._readers.submit(self._make, coming)
        return self._ahead.pop(step).result()

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """[2, samples] at -20 dBFS; silence is drawn again."""
        while True:
            if rng.random() < RECORDING_SHARE:
                start = rng.integers(len(self.recordings) - self.samples)
                cut = self.recordings[start : start + self.samples]
            else:
                audio = self.renders.audio
                start = rng.integers(audio.shape[2] - self.samples)
                piece, take = rng.integers(self.renders.training_pieces), rng.integers(audio.shape[1])
                cut = audio[piece, take, start : start + self.samples]
            cut = cut.astype(np.float32).T / 32768
            level = cut.std()
            if level > 0.003:
                return cut * (RMS / level)

    def _make(self, step: int) -> Tensor:
        """Excerpts and now and then the sum of two, at random gains, channels swapped half of the time: [BATCH, 2, S]."""
        rng = np.random.default_rng((step, 20250))
        chosen: list[np.ndarray] = []
        for _ in range(BATCH):
            audio = self._draw(rng)
            if rng.random() < MIX_SHARE:
                audio = audio + self._draw(rng) * 10 ** (rng.uniform(-12, 0) / 20)
            audio = audio * 10 ** (rng.uniform(*GAIN_DB) / 20)
            chosen.append((audio[::-1] if rng.random() < 0.5 else audio).clip(-1, 1))
        return torch.from_numpy(np.stack(chosen))


@torch.no_grad()
def measure_features(codec: SpectralCodec, data: Excerpts) -> None:
    """Set the features' statistics: a mean for each, one spread for all log-magnitudes and one for all shares."""
    seen = torch.cat([codec.features.analyse(data.batch(step)) for step in STATISTICS_STEPS]).flatten(0, 1)
    codec.feature_mean.copy_(seen.mean(0))
    shares = codec.features.sizes[2]
    spread = (seen - codec.feature_mean).square()
    codec.feature_std[:-shares] = spread[:, :-shares].mean().sqrt()
    codec.feature_std[-shares:] = spread[:, -shares:].mean().sqrt()


@torch.no_grad()
def measure_latents(codec: SpectralCodec, data: Excerpts) -> Tensor:
    """Standard deviation of each unnormalised latent channel: [64]."""
    means = [codec.moments(codec.features.analyse(data.batch(step)))[0] for step in STATISTICS_STEPS]
    return torch.cat(means).flatten(0, 1).std(0)


def train(name: str, arguments: argparse.Namespace) -> None:
    """Run one stage to its last step, or `stop_after` of this call's steps."""
    stage, work, size = STAGES[name], arguments.work, arguments.size
    torch.manual_seed(0)
    codec = load_codec(work, size, stage.previous) if stage.previous else SpectralCodec(**SIZES[size].codec)
    data = Excerpts(work, FRAMES * codec.hop)
    if stage.previous:
        latent_std, identity = measure_latents(codec, data), encoder_hash(codec)
    else:
        latent_std, identity = torch.ones(codec.latent_channels), data_hash(work)
        measure_features(codec, data)
    for parameter_name, parameter in codec.named_parameters():
        parameter.requires_grad_(stage.trains_encoder or not parameter_name.startswith("encoder"))
    distance = FeatureLoss(codec.features)

    def losses_of(step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            true = codec.features.analyse(data.batch(step))
        mean, log_variance = codec.moments(true)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(mean.shape, generator=generator)
        spread = (log_variance / 2).exp() + stage.noise * torch.rand(BATCH, 1, 1, generator=generator) * latent_std
        decoded = codec.decode_features(mean + noise * spread)
        terms = distance(decoded[:, EDGE:-EDGE], true[:, EDGE:-EDGE])
        terms["kl"] = kl_divergence(mean, log_variance)
        return terms | {"total": terms["total"] + stage.kl * terms["kl"]}

    plan = Plan(
        state_path(work, size, f"codec_{name}"),
        stage.steps if arguments.steps is None else arguments.steps,
        stage.learning_rate if arguments.learning_rate is None else arguments.learning_rate,
        arguments.stop_after,
        identity=identity,
    )
    run(plan, codec, losses_of)


if __name__ == "__main__":
    run_stage_command(__doc__, STAGES, train)
