# SPDX-License-Identifier: Apache-2.0
"""Models to measure: full sizes, random weights. What a weight is changes neither speed nor memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from diffusers.models import AceStepTransformer1DModel
from transformers import Qwen3Config, Qwen3Model

from engine_server.model.checkpoint_files import ASSETS, EMBEDDED
from engine_server.model.codec import Codec, OobleckCodec, load_codec
from engine_server.model.layouts import MODULES, TOKENIZERS
from engine_server.model.placement import Placement

_TURBO: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "encoder_hidden_size": 2048,
    "patch_size": 2,
    "sliding_window": 128,
    "layer_types": None,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "is_turbo": True,
}
_ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "text_encoder": {
        "vocab_size": 151_669,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "condition_encoder": {},
    "audio_tokenizer": {},
    "audio_token_detokenizer": {},
}
"""Qwen3-Embedding-0.6B, and ACE-Step's own, whose sizes are diffusers' defaults; XL has the same."""
_OOBLECK: Mapping[str, Any] = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48_000,
}


@dataclass(frozen=True)
class BenchModel:
    """A decoder by its configuration (that of diffusers' `AceStepTransformer1DModel`), and the condition that it is given."""

    name: str
    decoder: Mapping[str, Any]
    condition_tokens: int
    vae: Mapping[str, Any] | None
    """Oobleck's configuration, or None for the embedded codec, which is small enough to come with its weights."""
    encoders: Mapping[str, Mapping[str, Any]]
    """Configurations of what a checkpoint has beside decoder and codec: its `text_encoder`, and others of `MODULES`."""

    @property
    def channels(self) -> int:
        """Of a latent frame."""
        return int(self.decoder["audio_acoustic_hidden_dim"])

    @property
    def condition_width(self) -> int:
        """Of a condition token."""
        return int(self.decoder["encoder_hidden_size"])


def _embedded() -> BenchModel:
    folder = ASSETS / EMBEDDED

    def config(part: str) -> dict[str, Any]:
        content = json.loads((folder / part / "config.json").read_text())
        return {key: value for key, value in content.items() if key[0] != "_"}

    tokens = json.loads((folder / "demon.json").read_text())["condition_tokens"]
    encoders = {part: config(part) for part in ("text_encoder", "condition_encoder")}
    return BenchModel(EMBEDDED, config("transformer"), tokens, None, encoders)


MODELS: Mapping[str, BenchModel] = {
    EMBEDDED: _embedded(),
    "2b": BenchModel(
        "2b",
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            **_TURBO,
        },
        256,
        _OOBLECK,
        _ENCODERS,
    ),
    "xl": BenchModel(
        "xl",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            **_TURBO,
        },
        256,
        _OOBLECK,
        _ENCODERS,
    ),
}
"""By name. The sizes of XL are those of third-party ports: they have not been held against its own configuration."""


def random_transformer(config: Mapping[str, Any], place: Placement) -> Any:
    """An `AceStepTransformer1DModel` with random weights, made where it computes and in that type: no copy on the host."""
    with _made_in(place.device, place.dtype):
        return AceStepTransformer1DModel(**config).eval().requires_grad_(False)


def make_codec(model: BenchModel, device: torch.device) -> Codec:
    """A codec in float32, as the engine has it; of Oobleck with random weights."""
    if model.vae is None:
        return load_codec(ASSETS / EMBEDDED / "vae", device)
    with _made_in(device, torch.float32), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers' way of normalising weights
        vae: Any = AutoencoderOobleck(**model.vae)
        return OobleckCodec(vae.eval().requires_grad_(False))


def random_encoders(model: BenchModel, place: Placement) -> list[Any]:
    """What makes conditions of words, timbre and structure, each in the type that it computes in, with random weights."""
    modules = []
    for name, config in model.encoders.items():
        with _made_in(place.device, torch.float32 if name in TOKENIZERS else place.dtype):
            module = Qwen3Model(Qwen3Config(**config)) if name == "text_encoder" else MODULES[name](**config)
        modules.append(module.eval().requires_grad_(False))
    return modules


@contextmanager
def _made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors of this thread lie on the device, those of floats in the type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
