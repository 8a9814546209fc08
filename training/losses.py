# SPDX-License-Identifier: Apache-2.0
"""How far decoded features are from the true ones, in the codec's own terms."""

from __future__ import annotations

import torch
from torch import Tensor

from engine_server.model.spectral_features import LOG_FLOOR, SpectralFeatures

MAGNITUDE_WEIGHTS = (1.2, 1.5, 1.0)  # lows, middle, highs
STEREO_WEIGHT, BAND_WEIGHT = 1.0, 0.7
QUIET_WEIGHT = 0.3  # of a bin at the floor
NATS_PER_WEIGHT = 3.0  # above the floor, by which a bin's weight grows by one
MOST_ADDED_WEIGHT = 2.0
BANDS = (12, 20, 32)  # in which power must be right
SMALL_POWER = 1e-8


class FeatureLoss:
    """Errors of log-magnitudes, of the power in bands, and of the stereo field; louder bins weigh more."""

    def __init__(self, features: SpectralFeatures):
        self._sizes = features.sizes
        self._subframes = [band.resolution.subframes for band in features.bands]
        low, middle, _ = features.widths
        widths = (torch.ones(low), torch.ones(middle), features.group_width)
        self._bands = [_grouping(width, count) * width for width, count in zip(widths, BANDS, strict=True)]

    def __call__(self, decoded: Tensor, true: Tensor) -> dict[str, Tensor]:
        """`[B, N, features]` twice -> named terms; `total` is their weighted sum."""
        *decoded_parts, stereo = decoded.split(self._sizes, dim=-1)
        *true_parts, true_stereo = true.split(self._sizes, dim=-1)
        terms = {"bands": torch.zeros(()), "stereo": (stereo - true_stereo).abs().mean()}
        total = STEREO_WEIGHT * terms["stereo"]
        for index, name in enumerate(("low", "middle", "high")):
            shape = (self._subframes[index], -1)
            found, wanted = decoded_parts[index].unflatten(-1, shape), true_parts[index].unflatten(-1, shape)
            terms[name] = _weighted_error(found, wanted)
            terms["bands"] = terms["bands"] + _band_error(found, wanted, self._bands[index])
            total = total + MAGNITUDE_WEIGHTS[index] * terms[name]
        return terms | {"total": total + BAND_WEIGHT * terms["bands"]}


def _grouping(width: Tensor, bands: int) -> Tensor:
    """A 0/1 matrix `[bands, bins]` that cuts bins of these widths into bands growing like the square root of frequency."""
    place = (width.cumsum(0) - width / 2) / width.sum()
    owner = (place.sqrt() * bands).long().clamp(max=bands - 1)
    matrix = torch.nn.functional.one_hot(owner, bands).float().T
    return matrix[matrix.sum(1) > 0]


def _weighted_error(decoded: Tensor, true: Tensor) -> Tensor:
    above_floor = true - torch.log(torch.tensor(LOG_FLOOR))
    weight = QUIET_WEIGHT + (above_floor / NATS_PER_WEIGHT).clamp(0, MOST_ADDED_WEIGHT)
    return (weight * (decoded - true).abs()).mean() / weight.mean()


def _band_error(decoded: Tensor, true: Tensor, bands: Tensor) -> Tensor:
    """Mean error of half the log of the power in bands."""

    def level(x: Tensor) -> Tensor:
        return 0.5 * torch.log(torch.exp(2 * x.clamp(max=3.0)) @ bands.T + SMALL_POWER)

    return (level(decoded) - level(true)).abs().mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean divergence per latent number of the posterior from a standard normal, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
