# SPDX-License-Identifier: Apache-2.0
"""The codec: 48 kHz stereo audio to 25 Hz x 64 latents and back, behind one small interface.

A codec has bounded reach and no state: a window coded with its margin on both sides, the margin then discarded, equals
the whole coded at once (`windows.py` does so). A decoder whose latents hold no phase lays it on a grid of absolute time,
and is therefore told where in its piece a window lies. Output is float and is never normalised: values beyond 1 are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from diffusers import AutoencoderOobleck
from numpy.typing import NDArray
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec, noise_like
from shared_protocol.errors import DemonError
from shared_protocol.timebase import FRAMES_PER_SECOND

RESIDUAL_REACH = 3 * (1 + 3 + 9)
"""Samples on either side that Oobleck's three residual units see: kernel 7, dilations 1, 3 and 9."""
OUTER_REACH = 7 // 2
"""Samples on either side that Oobleck's convolution next to the audio sees."""
BACKENDS = ("eager", "compile")
MAX_GAIN_DB = 24.0


class Codec(Protocol):
    """Audio `[B, 2, N * hop]` in about [-1, 1] and latents `[B, N, channels]`, float32."""

    sample_rate: int
    hop: int
    latent_channels: int
    encoder_margin: int
    """Frames on either side of a span of latents whose audio the encoder must see."""
    decoder_margin: int
    """Frames on either side of a span of audio whose latents the decoder must see."""
    fixed_span: int | None
    """The only N that `decode` takes, or None if it takes any."""
    position_period: int
    """Frames after which the decoder's phase grid repeats; 1 for a decoder that knows no position."""

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`[B, 2, N * hop]` -> `[B, N, channels]`: the posterior's mean; with a generator, a sample drawn from it alone."""
        ...

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 2, N * hop]` -> mean and standard deviation, `[B, N, channels]` each."""
        ...

    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """`[B, N, channels]` -> `[B, 2, N * hop]`. Deterministic.

        position: the absolute frame of `latents[:, 0]`, of either sign, as an int or a 0-dim int64 tensor. Positions that
        differ by a multiple of `position_period` give the same audio.
        """
        ...


class OobleckCodec:
    """ACE-Step's own VAE (`AutoencoderOobleck`) as a `Codec`. Raises DemonError `E_CHECKPOINT_LAYOUT` if it cannot be one."""

    fixed_span: int | None = None
    position_period = 1

    def __init__(self, vae: Any) -> None:
        _check_oobleck(vae.config)
        self.vae = vae
        """diffusers' own module."""
        strides: Sequence[int] = vae.config.downsampling_ratios
        self.sample_rate = int(vae.config.sampling_rate)
        self.hop = math.prod(strides)
        self.latent_channels = int(vae.config.decoder_input_channels)
        self.encoder_margin = math.ceil(encoder_reach(strides) / self.hop)
        self.decoder_margin = math.ceil(decoder_reach(strides) / self.hop)

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Codec`."""
        mean, std = self.posterior(audio)
        return mean if generator is None else mean + std * noise_like(mean, generator)

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        gaussian = self.vae.encode(audio).latent_dist
        return gaussian.mean.transpose(1, 2), gaussian.std.transpose(1, 2)

    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """See `Codec`. The position changes nothing: the latents carry phase themselves, and convolutions do alike everywhere."""
        return self.vae.decode(latents.transpose(1, 2)).sample


class CompiledCodec:
    """A codec whose decoder is compiled for one length, at the first call (seconds to minutes). The encoder stays as it is."""

    def __init__(self, codec: Codec, fixed_span: int) -> None:
        self._codec = codec
        self._decode = torch.compile(codec.decode, dynamic=False)
        self.fixed_span: int | None = fixed_span
        self.sample_rate = codec.sample_rate
        self.hop = codec.hop
        self.latent_channels = codec.latent_channels
        self.encoder_margin = codec.encoder_margin
        self.decoder_margin = codec.decoder_margin
        self.position_period = codec.position_period

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Codec`."""
        return self._codec.encode(audio, generator)

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        return self._codec.posterior(audio)

    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """See `Codec`. Raises ValueError for a length other than `fixed_span`."""
        if latents.shape[1] != self.fixed_span:
            raise ValueError(f"latents has {latents.shape[1]} frames; this codec is compiled for {self.fixed_span}")
        # An int would be a constant of the compiled code, which every new position would then compile again.
        return self._decode(latents, torch.as_tensor(position, dtype=torch.int64, device=latents.device))


def with_backend(codec: Codec, backend: str, *, fixed_span: int) -> Codec:
    """The codec as it is (`eager`), or with its decoder compiled for `fixed_span` frames (`compile`).

    Raises DemonError `E_FIELD` for any other name, and for a span that leaves nothing within the margins.
    """
    if backend not in BACKENDS:
        raise DemonError("E_FIELD", f"backend is {backend!r}, not one of {', '.join(BACKENDS)}")
    if backend == "eager":
        return codec
    least = 2 * codec.decoder_margin + 1
    if fixed_span < least:
        raise DemonError("E_FIELD", f"fixed_span is {fixed_span}; with this codec it must be at least {least} frames")
    return CompiledCodec(codec, fixed_span)


def encoder_reach(strides: Sequence[int]) -> int:
    """Samples before its frame, and as many after it, that one latent of Oobleck's encoder sees."""
    return _reach(strides, latent_kernel=3)


def decoder_reach(strides: Sequence[int]) -> int:
    """Samples before its frame, and as many after it, that one latent influences through Oobleck's decoder."""
    return _reach(strides, latent_kernel=7)


def _reach(strides: Sequence[int], latent_kernel: int) -> int:
    """From the latents out to the audio; `strides` are listed the other way round.

    A resampling convolution with kernel 2s, stride s and padding s/2 sees, for an even s, s/2 samples on either side of
    the s that it stands for: reach adds up alike on both sides, and alike in the encoder and the decoder.
    """
    reach = latent_kernel // 2
    for stride in reversed(strides):
        reach = reach * stride + stride // 2 + RESIDUAL_REACH
    return reach + OUTER_REACH


def _check_oobleck(config: Any) -> None:
    strides, hop = list(config.downsampling_ratios), math.prod(config.downsampling_ratios)
    expected = {
        "downsampling_ratios": (strides, "even numbers", all(stride % 2 == 0 for stride in strides)),
        "sampling_rate": (
            config.sampling_rate,
            FRAMES_PER_SECOND * hop,
            config.sampling_rate == FRAMES_PER_SECOND * hop,
        ),
        "audio_channels": (config.audio_channels, 2, config.audio_channels == 2),
        "encoder_hidden_size": (
            config.encoder_hidden_size,
            2 * config.decoder_input_channels,
            config.encoder_hidden_size == 2 * config.decoder_input_channels,
        ),
    }
    for field, (value, wanted, holds) in expected.items():
        if not holds:
            raise DemonError("E_CHECKPOINT_LAYOUT", f"the VAE's {field} is {value}; it must be {wanted}")


def load_codec(folder: Path, device: torch.device | str = "cpu") -> Codec:
    """The codec of a checkpoint's `vae` folder, in float32.

    Raises DemonError: `E_CHECKPOINT_LAYOUT` for another kind of model, `E_CHECKPOINT_KEYS` for a file that lacks weights.
    """
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    kinds = {"SpectralCodec": SpectralCodec, "AutoencoderOobleck": AutoencoderOobleck}
    kind = kinds.get(config.get("_class_name"))
    if kind is None:
        raise DemonError(
            "E_CHECKPOINT_LAYOUT", f"{folder} holds a {config.get('_class_name')}, not one of {', '.join(kinds)}"
        )
    model, info = kind.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    if missing := info["missing_keys"]:  # diffusers only warns, and leaves random numbers in their place
        raise DemonError("E_CHECKPOINT_KEYS", f"{folder} lacks {len(missing)} tensors, among them {sorted(missing)[0]}")
    model = model.eval().requires_grad_(False).to(device)
    return OobleckCodec(model) if isinstance(model, AutoencoderOobleck) else model


@dataclass(frozen=True)
class Gain:
    """A fixed gain on decoded audio, in place of a normalisation that would differ from window to window.

    Raises DemonError `E_FIELD` outside +-24 dB.
    """

    db: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.db) <= MAX_GAIN_DB:  # also refuses a NaN
            raise DemonError("E_FIELD", f"gain is {self.db} dB; it must be from -{MAX_GAIN_DB} to {MAX_GAIN_DB} dB")

    def __call__(self, audio: Tensor) -> Tensor:
        """Audio of any shape, scaled; at 0 dB its very bits."""
        return audio * 10 ** (self.db / 20)


def peak(audio: Tensor | NDArray[np.float32]) -> float:
    """The largest magnitude in audio of any shape, 0 if it is empty; full scale is 1."""
    samples = torch.as_tensor(audio)
    return float(samples.abs().max()) if samples.numel() else 0.0


def describe_peak(magnitude: float) -> str:
    """What a user is told about a `peak`, for example "peaks at +1.2 dBFS; floats above full scale are kept"."""
    if not math.isfinite(magnitude):
        return "holds samples that are not finite"
    if magnitude == 0:
        return "is silent"
    level = f"peaks at {20 * math.log10(magnitude):+.1f} dBFS"
    return f"{level}; floats above full scale are kept" if magnitude > 1 else level
