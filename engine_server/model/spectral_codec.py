# SPDX-License-Identifier: Apache-2.0
"""A small audio codec with a bounded reach: 48 kHz stereo <-> 64 latent channels at 25 frames per second.

1600 latent numbers per second cannot carry a waveform, and a diffusion model of a few million weights could not invent
one. So the latents code a spectrogram (`spectral_features`), by a ConvNeXt network (Liu et al. 2022) on either side,
and the decoder reconstructs a phase for it (`phase`). What comes out sounds alike and is no copy of the waveform.

Every operation is local, and the phases lie on a grid of absolute time: a window decoded (encoded) with
`decoder_margin` (`encoder_margin`) frames of context on each side equals the same span of the whole song's decoding,
as long as the network's arithmetic does: to within 1e-5 of its output, beyond which a partial may be taken for noise in
one of the two. Convolutions in TF32 would not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from engine_server.model.phase import HOP, POSITION_PERIOD, SAMPLE_RATE
from engine_server.model.spectral_features import SpectralFeatures

Beyond = Literal["zeros", "replicate"]


def noise_like(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise for a posterior `[B, N, C]`, from this generator alone.

    Drawn `[B, C, N]` on the generator's device, as diffusers' `latent_dist.sample(generator)` draws it.
    """
    batch, frames, channels = mean.shape
    noise = torch.randn((batch, channels, frames), generator=generator, device=generator.device, dtype=mean.dtype)
    return noise.transpose(1, 2).to(mean.device)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, residual: [B, N, C] -> [B, N, C].

    padding_mode: what lies beyond the edges.
    """

    def __init__(self, channels: int, hidden: int, kernel: int, padding_mode: Beyond):
        super().__init__()
        reach = kernel // 2
        self.depthwise = nn.Conv1d(
            channels, channels, kernel, padding=reach, groups=channels, padding_mode=padding_mode
        )
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.project = nn.Linear(hidden, channels)
        self.gain = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x.mT).mT)
        mixed: Tensor = x + self.gain * self.project(F.gelu(self.expand(y)))
        return mixed


def _trunk(blocks: int, channels: int, hidden: int, kernel: int, padding_mode: Beyond) -> nn.Sequential:
    return nn.Sequential(*[ConvNeXtBlock(channels, hidden, kernel, padding_mode) for _ in range(blocks)])


def check_layout(windows: Sequence[int], iterations: int, kernel: int) -> None:
    """Raises ValueError, naming the field, for what the bands, the iterations or a centred convolution cannot be."""
    whole = len(windows) == 3 and all(type(size) is int and size >= 8 and size % 8 == 0 for size in windows)
    if not whole or any(HOP % (size // 4) for size in windows) or sorted(windows, reverse=True) != list(windows):
        raise ValueError(f"windows is {windows!r}, not three falling sizes whose quarters divide {HOP}")
    if type(iterations) is not int or iterations < 0:
        raise ValueError(f"iterations is {iterations!r}, not a whole number from 0 on")
    if type(kernel) is not int or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel!r}, not an odd number")


class SpectralCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the bases disagree on config_name
    """Encoder and decoder; sizes in the config, the features' and the latents' statistics in buffers."""

    sample_rate: int = SAMPLE_RATE
    hop: int = HOP
    fixed_span: int | None = None
    position_period: int = POSITION_PERIOD
    config: Any  # a FrozenDict with attribute access to what __init__ was given
    latent_mean: Tensor
    latent_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 64,
        windows: tuple[int, int, int] = (7680, 3840, 1920),
        iterations: int = 2,
        encoder_width: int = 384,
        encoder_hidden: int = 1024,
        encoder_blocks: int = 3,
        decoder_width: int = 512,
        decoder_hidden: int = 1280,
        decoder_blocks: int = 5,
        kernel: int = 3,
    ):
        """`windows`: FFT sizes in samples for lows, middle and highs. `iterations`: of Griffin-Lim. Raises ValueError."""
        super().__init__()  # type: ignore[no-untyped-call]
        check_layout(windows, iterations, kernel)
        low, middle, high = windows
        self.features = SpectralFeatures((low, middle, high), iterations)
        count = sum(self.features.sizes)
        self.encoder_in = nn.Linear(count, encoder_width)
        self.encoder_trunk = _trunk(encoder_blocks, encoder_width, encoder_hidden, kernel, "zeros")
        self.encoder_norm = nn.LayerNorm(encoder_width)
        self.encoder_out = nn.Linear(encoder_width, 2 * latent_channels)
        self.decoder_in = nn.Linear(latent_channels, decoder_width)
        # Where a song begins and ends the decoder sees its first and last frame go on: zeros would be heard as a fade,
        # and in silence as a click.
        self.decoder_trunk = _trunk(decoder_blocks, decoder_width, decoder_hidden, kernel, "replicate")
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.decoder_head = nn.Linear(decoder_width, count)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.register_buffer("feature_mean", torch.zeros(count))
        self.register_buffer("feature_std", torch.ones(count))

    @property
    def latent_channels(self) -> int:
        """Latent channels per frame."""
        return int(self.config.latent_channels)

    @property
    def encoder_margin(self) -> int:
        """Frames of context on each side beyond which audio cannot influence a latent frame."""
        return self.features.analysis_reach + self._trunk_reach(self.config.encoder_blocks)

    @property
    def decoder_margin(self) -> int:
        """Frames of context on each side beyond which a latent frame cannot influence a frame of audio."""
        return self.features.synthesis_reach + self._trunk_reach(self.config.decoder_blocks)

    def _trunk_reach(self, blocks: int) -> int:
        return int(blocks * (self.config.kernel // 2))

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 2, N * hop] -> [B, N, 64], normalised per channel: the posterior's mean, or with a generator a sample."""
        mean, std = self.posterior(audio)
        return mean if generator is None else mean + std * noise_like(mean, generator)

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, normalised per channel: [B, 2, N * hop] -> two [B, N, 64]."""
        if audio.shape[-1] % self.hop:
            raise ValueError(f"audio length {audio.shape[-1]} is not a multiple of {self.hop} samples")
        mean, log_variance = self.moments(self.features.analyse(audio))
        return (mean - self.latent_mean) / self.latent_std, (log_variance / 2).exp() / self.latent_std

    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """Normalised latents [B, N, 64], the first of them of frame `position` -> audio [B, 2, N * hop]."""
        features = self.decode_features(latents * self.latent_std + self.latent_mean)
        return self.features.synthesise(features, position)

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior before normalisation: [B, N, features] -> two [B, N, 64]."""
        h = self.encoder_trunk(self.encoder_in((features - self.feature_mean) / self.feature_std))
        mean, log_variance = self.encoder_out(self.encoder_norm(h)).chunk(2, dim=-1)
        return mean, log_variance

    def decode_features(self, raw_latents: Tensor) -> Tensor:
        """Unnormalised latents to features: [B, N, 64] -> [B, N, features]."""
        h = self.decoder_trunk(self.decoder_in(raw_latents))
        return self.decoder_head(self.decoder_norm(h)) * self.feature_std + self.feature_mean
