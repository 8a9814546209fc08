# SPDX-License-Identifier: Apache-2.0
"""Untrained modules of the embedded model's kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from engine_server.model.spectral_codec import SpectralCodec
from training.prompts import build_tokenizer
from training.sizes import EMBEDDED_SIZE, Size

LATENT_CHANNELS = 64
SILENCE_FRAMES = 15000  # length of upstream's buffer
SILENCE_PROBE_FRAMES = 40


@dataclass
class DiffusionModules:
    """Everything but the codec; `trained` lists what the optimiser sees.

    `condition_encoder` is an AceStepConditionEncoder and `transformer` an AceStepTransformer1DModel, which diffusers hides
    from type checkers.
    """

    tokenizer: PreTrainedTokenizerFast
    text_encoder: Qwen3Model
    condition_encoder: Any
    transformer: Any

    @property
    def trained(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "text_encoder": self.text_encoder,
                "condition_encoder": self.condition_encoder,
                "transformer": self.transformer,
            }
        )


def build_diffusion_modules(silence_latent: Tensor, size: Size = EMBEDDED_SIZE) -> DiffusionModules:
    """Fresh modules from torch's current seed. `silence_latent`: the constant frame [64] of digital silence."""
    width = size.text_width
    tokenizer = build_tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )
    )
    condition_encoder: Any = AceStepConditionEncoder(
        hidden_size=width,
        intermediate_size=2 * width,
        text_hidden_dim=width,
        timbre_hidden_dim=LATENT_CHANNELS,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=64,
    )
    condition_encoder.silence_latent.copy_(silence_latent.expand(1, SILENCE_FRAMES, -1))
    settings = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "in_channels": 3 * LATENT_CHANNELS,
        "audio_acoustic_hidden_dim": LATENT_CHANNELS,
        "patch_size": 2,
        "sliding_window": 64,
        "encoder_hidden_size": width,
        "is_turbo": True,
        "model_version": size.name,
    }
    transformer = AceStepTransformer1DModel(**(settings | size.transformer))
    return DiffusionModules(tokenizer, text_encoder, condition_encoder, transformer)


@torch.no_grad()
def encode_silence(codec: SpectralCodec) -> Tensor:
    """The latent frame [64] of digital silence, away from the edges of the signal."""
    silence = torch.zeros(1, 2, SILENCE_PROBE_FRAMES * codec.hop)
    return codec.encode(silence)[0, SILENCE_PROBE_FRAMES // 2]
