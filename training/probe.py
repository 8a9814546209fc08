# SPDX-License-Identifier: Apache-2.0
"""A small instrument classifier: linear discriminant analysis on log-mel statistics of the codec's output.

It is trained on the training pieces as the codec reproduces them, so it judges the transformer and not the codec. It
has heard the same soundfonts as the model: a target verdict says 'this family as we rendered it', no more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import piece_takes
from training.losses import mel_filters, spectrum
from training.store import Renders

FFT_SIZE, BANDS = 2048, 60
SHRINKAGE = 0.1
PROBE_PIECES = 40
START, FRAMES = 100, 140


def features(audio: Tensor) -> np.ndarray:
    """Level-free mean, spread and movement of log-mel bands: [B, 2, S] to [B, 3 * BANDS]."""
    magnitude = spectrum(audio.mean(1), FFT_SIZE).abs()
    log_mel = torch.log(mel_filters(FFT_SIZE, BANDS) @ magnitude + 1e-4)
    centred = log_mel - log_mel.mean(dim=(1, 2), keepdim=True)
    movement = log_mel.diff(dim=2).abs().mean(2)
    return torch.cat([centred.mean(2), centred.std(2), movement], dim=1).numpy().astype(np.float64)


class InstrumentProbe:
    """Class means under a shared, shrunken covariance."""

    def __init__(self, x: np.ndarray, labels: list[str]):
        self.names = sorted(set(labels))
        owner = np.array([self.names.index(label) for label in labels])
        self.scale = x.std(0) + 1e-6
        x = x / self.scale
        self.means = np.stack([x[owner == index].mean(0) for index in range(len(self.names))])
        residual = x - self.means[owner]
        covariance = residual.T @ residual / len(x)
        size = len(covariance)
        prior = np.trace(covariance) / size * np.eye(size)
        self.precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * prior)

    @classmethod
    @torch.no_grad()
    def train(cls, codec: SpectralCodec, renders: Renders) -> InstrumentProbe:
        """From reconstructions of the first training pieces."""
        x, labels = [], []
        for piece in range(min(PROBE_PIECES, renders.training_pieces)):
            latents = codec.encode(piece_takes(renders, piece)[..., : (START + FRAMES + 8) * codec.hop])
            x.append(features(codec.decode(latents[:, START : START + FRAMES])))
            labels += renders.families[piece]
        return cls(np.concatenate(x), labels)

    def classify(self, audio: Tensor) -> list[str]:
        """The nearest family of each signal [B, 2, S]."""
        offset = (features(audio) / self.scale)[:, None] - self.means
        distance = np.einsum("bci,ij,bcj->bc", offset, self.precision, offset)
        return [self.names[index] for index in distance.argmin(1)]
