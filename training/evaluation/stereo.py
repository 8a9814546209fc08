# SPDX-License-Identifier: Apache-2.0
"""How well a codec keeps the stereo picture: level differences and coherence of the channels, band by band."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.spectra import HOP, htk_mel_filters, same_length, spectrum

BANDS = 20
BLOCK_FRAMES = 8
"""STFT frames averaged into one measurement: 85 ms."""
HEARD_DB = 40.0
"""Measurements so far below the loudest one of the original are left out."""
WIDEST_DB = 20.0
"""Level differences are held to this; beyond, one side is as good as silent."""


@dataclass(frozen=True)
class StereoError:
    """Mean absolute errors over all heard bands and blocks."""

    level_difference_db: float
    coherence: float


def stereo_error(original: Tensor, other: Tensor) -> StereoError:
    """Errors of `other` `[2, S]` against `original`, over 20 mel bands and blocks of 85 ms.

    The level difference of a band is 10 log10 of left over right power; its coherence |<L R*>| / sqrt(<LL><RR>), in [0, 1].
    """
    a, b = same_length(original, other)
    power, level_a, coherence_a = _picture(a)
    _, level_b, coherence_b = _picture(b)
    heard = power > power.max() * 10 ** (-HEARD_DB / 10)
    if not heard.any():
        return StereoError(0.0, 0.0)
    return StereoError(
        float((level_a - level_b).abs()[heard].mean()), float((coherence_a - coherence_b).abs()[heard].mean())
    )


def side_share_db(audio: Tensor) -> float:
    """Power of the side signal against the mid signal in dB; mono is at the floor, -80 dB."""
    mid, side = audio[0] + audio[1], audio[0] - audio[1]
    ratio = side.square().mean() / mid.square().mean().clamp_min(1e-12)
    return float(10 * torch.log10(ratio.clamp_min(1e-8)))


def _picture(audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power, level difference in dB and coherence, `[bands, blocks]` each."""
    left, right = spectrum(audio, hop=HOP)
    cross = left * right.conj()
    ll, rr = (_blocks(side.abs().square()) for side in (left, right))
    lr = torch.complex(_blocks(cross.real), _blocks(cross.imag)).abs()
    floor = 1e-10 + 1e-9 * (ll + rr).max()
    level = (10 * torch.log10((ll + floor) / (rr + floor))).clamp(-WIDEST_DB, WIDEST_DB)
    return ll + rr, level, lr / (ll * rr).sqrt().clamp_min(floor)


def _blocks(values: Tensor) -> Tensor:
    """`[bins, frames]` -> sums `[BANDS, frames / BLOCK_FRAMES]`."""
    bands = htk_mel_filters(BANDS) @ values
    blocks = bands.shape[1] // BLOCK_FRAMES
    return bands[:, : blocks * BLOCK_FRAMES].reshape(BANDS, blocks, BLOCK_FRAMES).mean(2)
