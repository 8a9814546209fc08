# SPDX-License-Identifier: Apache-2.0
"""ACE-Step's VAE (`AutoencoderOobleck`) as functions of tensors that torch can export, one for each direction.

What the original computes at every call from weights alone is a constant here: the weight norm of its convolutions (Salimans and
Kingma 2016) and the exponentials of its Snake activations (Ziyin et al. 2020).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm

LEAST_STD = 1e-4
"""What diffusers' `OobleckDiagonalGaussianDistribution` adds to the softplus."""
LEAST_BETA = 1e-9
"""What diffusers' `Snake1d` adds to beta before it divides."""


class OobleckEncoder(nn.Module):
    """Audio to the posterior's mean and standard deviation."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        """vae: not changed; dtype: of weights and arithmetic, but for the deviation's softplus."""
        super().__init__()
        self.encoder = _with_constants(vae).encoder.to(dtype)
        self._dtype = dtype

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 2, N * hop]` float32 in [-1, 1] to mean and deviation `[B, C, N]` float32.

        The second half of the encoder's channels is the deviation before a softplus; it is no logarithm of a variance.
        """
        mean, scale = self.encoder(audio.to(self._dtype)).float().chunk(2, dim=1)
        return mean, F.softplus(scale) + LEAST_STD


class OobleckDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        """vae: not changed; dtype: of weights and arithmetic."""
        super().__init__()
        self.decoder = _with_constants(vae).decoder.to(dtype)
        self._dtype = dtype

    def forward(self, latents: Tensor) -> Tensor:
        """`[B, C, N]` float32 to `[B, 2, N * hop]` float32, not limited to [-1, 1]."""
        return self.decoder(latents.to(self._dtype)).float()


class FixedSnake(nn.Module):
    """`x + sin(alpha x)^2 / beta` for x `[B, C, N]`, with alpha and 1 / beta, `[1, C, 1]` each, worked out."""

    def __init__(self, snake: Snake1d) -> None:
        super().__init__()
        alpha, beta = (part.detach().float() for part in (snake.alpha, snake.beta))
        if snake.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        self.alpha = nn.Parameter(alpha, requires_grad=False)
        self.gain = nn.Parameter(1 / (beta + LEAST_BETA), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.gain * torch.sin(self.alpha * x).square()


def _with_constants(vae: Any) -> Any:
    """A float32 copy of the VAE on the CPU without weight norm, and with `FixedSnake` for `Snake1d`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of the weight norm that diffusers uses
        copy = AutoencoderOobleck.from_config(vae.config)
    copy.load_state_dict(vae.state_dict())
    copy = copy.eval().requires_grad_(False)
    for module in list(copy.modules()):
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
        for name, child in module.named_children():
            if isinstance(child, Snake1d):
                setattr(module, name, FixedSnake(child))
    return copy
