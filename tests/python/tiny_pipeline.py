# SPDX-License-Identifier: Apache-2.0
"""diffusers' whole pipeline with random weights, small enough to run in a moment."""

from __future__ import annotations

import torch
from diffusers import AceStepPipeline, AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
from diffusers.models import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

WIDTH, CHANNELS, RATE = 32, 8, 800
"""Width of conditions and of the decoder (unless it is XL); latent channels; samples per second, 32 of them to a frame."""
AUDIO = 0.1 * torch.randn(2, 10 * RATE, generator=torch.Generator().manual_seed(1))
"""10 s to work on."""
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
XL_DECODER = {"hidden_size": 40, "num_attention_heads": 8}
"""As in XL checkpoints, neither the hidden width (40) nor the width of conditions (32) is that of attention (64)."""


def build_pipeline(*, is_turbo: bool = True, is_xl: bool = False) -> AceStepPipeline:
    """A pipeline with a byte tokenizer and random modules whose attention bands are shorter than its inputs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "sliding_window": 8, **HEADS}
    pooling = {"audio_acoustic_hidden_dim": CHANNELS, "num_attention_pooler_hidden_layers": 2, **sizes}
    condition_encoder = AceStepConditionEncoder(
        text_hidden_dim=WIDTH, timbre_hidden_dim=CHANNELS, num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=2, **sizes,
    )  # fmt: skip
    condition_encoder.silence_latent = 0.1 * torch.randn(1, 1000, CHANNELS)
    text_sizes = {"vocab_size": 257, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, **HEADS}
    decoder_sizes = {**sizes, **(XL_DECODER if is_xl else {})}
    pipeline = AceStepPipeline(
        vae=AutoencoderOobleck(
            encoder_hidden_size=2 * CHANNELS, downsampling_ratios=[2, 4, 4], channel_multiples=[1, 1, 1],
            decoder_channels=8, decoder_input_channels=CHANNELS, audio_channels=2, sampling_rate=RATE,
        ),
        text_encoder=Qwen3Model(Qwen3Config(max_position_embeddings=4096, **text_sizes)),
        tokenizer=_byte_tokenizer(),
        transformer=AceStepTransformer1DModel(
            in_channels=3 * CHANNELS, audio_acoustic_hidden_dim=CHANNELS, encoder_hidden_size=WIDTH,
            num_hidden_layers=2, is_turbo=is_turbo, **decoder_sizes,
        ),
        condition_encoder=condition_encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        audio_tokenizer=AceStepAudioTokenizer(fsq_dim=WIDTH, **pooling),
        audio_token_detokenizer=AceStepAudioTokenDetokenizer(**pooling),
    )  # fmt: skip
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(vocab={**letters, "<|endoftext|>": len(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="right"
    )
