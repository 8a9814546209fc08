# SPDX-License-Identifier: Apache-2.0
"""A small codec whose decoder depends on where in time its latents lie, as one does that makes the phases itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


class PositionedCodec:
    """A real `Codec` to the bit: every sample is a function of the latents within the margin and of their positions.

    It sums in one order wherever a frame lies, so that windows equal the whole without any rounding.
    """

    fixed_span: int | None = None
    encoder_margin = 0
    decoder_margin = 3

    def __init__(self, hop: int = 1920, latent_channels: int = 64, position_period: int = 7) -> None:
        self.hop, self.latent_channels, self.position_period = hop, latent_channels, position_period
        self.sample_rate = 25 * hop
        self.positions: list[int] = []
        """Of every decode, in order."""
        self._carriers = torch.rand(position_period, latent_channels, generator=torch.Generator().manual_seed(11))

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The mean: some of the left channel's samples."""
        assert generator is None, "this stand-in draws no samples"
        return self.posterior(audio)[0]

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        samples = audio[:, 0, :: self.hop // self.latent_channels]
        mean = samples.reshape(len(audio), -1, self.latent_channels)
        return mean, torch.ones_like(mean)

    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """See `Codec`: latents times what their absolute frame says, over the neighbours that the margin reaches."""
        if not torch.compiler.is_compiling():
            self.positions.append(int(position))
        frames, reach = latents.shape[1], self.decoder_margin
        carried = latents * self._carriers[(torch.arange(frames) + position) % self.position_period]
        around = pad(carried, (0, 0, reach, reach))
        mixed = sum(around[:, k : k + frames] / (k + 1) for k in range(2 * reach + 1))
        left = mixed.repeat_interleave(self.hop // self.latent_channels, dim=2).flatten(1)
        return torch.stack([left, -left], dim=1)
