# SPDX-License-Identifier: Apache-2.0
"""The codec: 48 kHz stereo audio to 25 Hz x 64 latents and back, behind one small interface.

A codec has bounded reach and no state: a window coded with its margin on both sides, the margin then discarded, equals
the whole coded at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from shared_protocol.errors import DemonError

RESIDUAL_REACH = 3 * (1 + 3 + 9)
"""Samples on either side that Oobleck's three residual units see: kernel 7, dilations 1, 3 and 9."""


class Codec(Protocol):
    """Audio `[B, 2, N * hop]` in about [-1, 1] and latents `[B, N, channels]`, float32. Deterministic."""

    sample_rate: int
    hop: int
    latent_channels: int
    encoder_margin: int
    """Frames on either side of a span of latents whose audio the encoder must see."""
    decoder_margin: int
    """Frames on either side of a span of audio whose latents the decoder must see."""

    def encode(self, audio: Tensor) -> Tensor:
        """`[B, 2, N * hop]` -> `[B, N, channels]`, the posterior's mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """`[B, N, channels]` -> `[B, 2, N * hop]`."""
        ...


class OobleckCodec:
    """ACE-Step's own VAE (`AutoencoderOobleck`) as a `Codec`."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        strides: Sequence[int] = vae.config.downsampling_ratios
        self.sample_rate = int(vae.config.sampling_rate)
        self.hop = math.prod(strides)
        self.latent_channels = int(vae.config.decoder_input_channels)
        self.encoder_margin = math.ceil(encoder_reach(strides) / self.hop)
        self.decoder_margin = math.ceil(decoder_reach(strides)) - 1

    def encode(self, audio: Tensor) -> Tensor:
        """See `Codec`."""
        return self._vae.encode(audio).latent_dist.mean.transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Codec`."""
        return self._vae.decode(latents.transpose(1, 2)).sample


def encoder_reach(strides: Sequence[int]) -> int:
    """Samples on either side that one latent of Oobleck's encoder sees, from its strides, input to latent."""
    reach = 1
    for stride in reversed(strides):
        reach = reach * stride + (2 * stride - 1 - math.ceil(stride / 2)) + RESIDUAL_REACH
    return reach + 3


def decoder_reach(strides: Sequence[int]) -> float:
    """Frames, its own included, that one latent influences on its far side, from the strides, input to latent."""
    reach = 3.0
    for stride in strides:
        reach = (reach + RESIDUAL_REACH + max(math.ceil(stride / 2), 2 * stride - 1 - math.ceil(stride / 2))) / stride
    return reach + 3


def load_codec(folder: Path) -> Codec:
    """The codec of a checkpoint's `vae` folder, in float32, on the CPU. Raises DemonError `E_CHECKPOINT_LAYOUT`."""
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    kinds = {"SpectralCodec": SpectralCodec, "AutoencoderOobleck": AutoencoderOobleck}
    kind = kinds.get(config.get("_class_name"))
    if kind is None:
        raise DemonError(
            "E_CHECKPOINT_LAYOUT", f"{folder} holds a {config.get('_class_name')}, not one of {', '.join(kinds)}"
        )
    load = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
    model = kind.from_pretrained(folder, **load).eval()
    return OobleckCodec(model) if isinstance(model, AutoencoderOobleck) else model
