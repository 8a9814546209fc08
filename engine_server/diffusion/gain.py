# SPDX-License-Identifier: Apache-2.0
"""Channel gain: how loud the decoder sees each latent channel. Only its input is scaled, never the integrated state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, finite_curve

CHANNELS = 64


@dataclass(frozen=True, eq=False)
class GainEntry:
    """One gain for the channels `first` to `last`, both included: a number or a value per frame.

    Raises ValueError naming the field for a channel outside 0..63, a reversed range, or a scale that is not one finite curve.
    """

    first: int
    last: int
    scale: CurveLike

    def __post_init__(self) -> None:
        if not 0 <= self.first < CHANNELS:
            raise ValueError(f"first is {self.first}; a channel from 0 to {CHANNELS - 1} is expected")
        if not self.first <= self.last < CHANNELS:
            raise ValueError(f"last is {self.last}; a channel from first ({self.first}) to {CHANNELS - 1} is expected")
        curve = finite_curve(self.scale, name="scale")
        if curve.shape[2] != 1:
            raise ValueError(f"scale has shape {tuple(curve.shape)}; one value per frame is expected")
        object.__setattr__(self, "scale", curve.clone())  # the entry's own: the caller may go on drawing


def channel_gain(entries: Sequence[GainEntry]) -> Tensor | None:
    """The gain `[1, T, 64]`, or `[1, 1, 64]` when every scale is a number, or None where it is 1 throughout.

    Starts at 1; each entry sets its channels, so that a later entry replaces an earlier one instead of multiplying it. T is
    the longest scale; the others have that length or 1, else ValueError.
    """
    scales = [finite_curve(entry.scale, name="scale") for entry in entries]
    frames = max((scale.shape[1] for scale in scales), default=1)
    gain = torch.ones(1, frames, CHANNELS)
    for entry, scale in zip(entries, scales, strict=True):
        if scale.shape[1] not in (1, frames):
            raise ValueError(
                f"scale of channels {entry.first} to {entry.last} has {scale.shape[1]} frames; 1 or {frames} are expected"
            )
        gain[:, :, entry.first : entry.last + 1] = scale
    return None if bool((gain == 1.0).all()) else gain
