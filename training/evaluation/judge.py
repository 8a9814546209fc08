# SPDX-License-Identifier: Apache-2.0
"""The judge: names the instrument family of a recording. Linear discriminant analysis on `timbre` features.

It learns from renders of the training's soundfonts, as rendered and as the checkpoint's codec reproduces them, so that it
judges the model and not the codec. Its accuracy on its own and on a held-out soundfont is part of every evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.evaluation import timbre
from training.evaluation.examples import EXCERPT_S, Examples, Labels, Matrix, gather
from training.evaluation.spectra import SAMPLE_RATE
from training.instruments import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor

    from training.evaluation.subject import Subject

PIECES, QUICK_PIECES = 80, 5
HELD_BACK = 0.2
"""Share of the pieces, the last ones, that the judge does not learn from: for its own accuracy."""
SHRINKAGE = 0.1
"""Of the covariance towards a multiple of the identity; chosen with one of the training's soundfonts left out at a time."""


@dataclass(frozen=True)
class Discriminant:
    """Class means under one shared, shrunken covariance, on standardised features `[N, F]`."""

    centre: Matrix
    scale: Matrix
    weights: Matrix
    """`[F, C]`."""
    offsets: Matrix

    @classmethod
    def fit(cls, features: Matrix, labels: Labels, classes: int) -> Discriminant:
        """From examples of every class."""
        centre, scale = features.mean(0), features.std(0) + 1e-6
        x = (features - centre) / scale
        means = np.stack([x[labels == label].mean(0) for label in range(classes)])
        residual = x - means[labels]
        covariance = residual.T @ residual / len(x)
        size = len(covariance)
        shrunken = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
        weights = np.linalg.solve(shrunken, means.T)
        return cls(centre, scale, weights, -0.5 * np.einsum("cf,fc->c", means, weights))

    def scores(self, features: Matrix) -> Matrix:
        """Logarithms of the classes' likelihoods, up to a constant: `[N, F]` -> `[N, C]`."""
        scores: Matrix = (features - self.centre) / self.scale @ self.weights + self.offsets
        return scores


class Judge:
    """Names families. `own_accuracy`: right verdicts and cases on coded pieces that it did not learn from."""

    def __init__(self, discriminant: Discriminant, own_accuracy: tuple[int, int]) -> None:
        self._discriminant = discriminant
        self.own_accuracy = own_accuracy

    def hears(self, audio: Tensor) -> str:
        """The family of `[2, S]`: the mean verdict over excerpts as long as those that it learnt from."""
        length = round(EXCERPT_S * SAMPLE_RATE)
        excerpts = [audio] if audio.shape[1] <= length else [audio[:, :length], audio[:, -length:]]
        scores = self._discriminant.scores(np.stack([timbre.features(excerpt) for excerpt in excerpts]))
        return FAMILIES[int(scores.mean(0).argmax())].name


def train(rendered: Examples, coded: Examples) -> Judge:
    """From takes as rendered and through the codec; the last pieces are held back."""
    first_held_back = (1 - HELD_BACK) * (rendered.pieces.max() + 1)
    learnt = rendered[rendered.pieces < first_held_back] + coded[coded.pieces < first_held_back]
    discriminant = Discriminant.fit(learnt.features, learnt.families, len(FAMILIES))
    test = coded[coded.pieces >= first_held_back]
    right = discriminant.scores(test.features).argmax(1) == test.families
    return Judge(discriminant, (int(right.sum()), len(right)))


def trained_judge(subject: Subject) -> Judge:
    """The judge for a checkpoint's codec."""
    count = subject.effort.of(PIECES, QUICK_PIECES)
    return train(*gather(subject.codec, subject.work, count, subject.progress))
