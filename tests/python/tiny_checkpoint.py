# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of random weights, in the layout of real ones and with the same classes, that loads and runs in a moment."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from diffusers.models import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from engine_server.model.checkpoint_files import Geometry, Settings
from engine_server.model.spectral_codec import SpectralCodec

WIDTH, TEXT_WIDTH, LATENT = 32, 32, 64
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CODEC = {"encoder_width": 16, "encoder_hidden": 16, "decoder_width": 16, "decoder_hidden": 16}


def build_tiny_checkpoint(
    folder: Path, *, cover_context: str = "raw", decoder_width: int = WIDTH, is_turbo: bool = True
) -> Path:
    """Write the checkpoint and return its folder. A decoder wider than the condition is what XL checkpoints have."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, **ATTENTION}
    codec = SpectralCodec(**CODEC).eval()
    condition_encoder = AceStepConditionEncoder(
        text_hidden_dim=TEXT_WIDTH, num_lyric_encoder_hidden_layers=1, num_timbre_encoder_hidden_layers=1, **sizes
    )
    with torch.no_grad():
        silence = codec.encode(torch.zeros(1, 2, 40 * codec.hop))[0, 20]
        condition_encoder.silence_latent.copy_(silence.expand(1, 15000, LATENT))
    decoder_sizes = {**sizes, "hidden_size": decoder_width, "encoder_hidden_size": WIDTH}
    parts = {
        "transformer": AceStepTransformer1DModel(
            num_hidden_layers=2, sliding_window=16, is_turbo=is_turbo, model_version="tiny", **decoder_sizes
        ),
        "condition_encoder": condition_encoder,
        "text_encoder": Qwen3Model(
            Qwen3Config(
                vocab_size=257, hidden_size=TEXT_WIDTH, intermediate_size=64, num_hidden_layers=1,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            )
        ),
        "vae": codec,
        "tokenizer": _byte_tokenizer(),
    }  # fmt: skip
    if cover_context == "tokenizer":
        pooling = {"audio_acoustic_hidden_dim": LATENT, "num_attention_pooler_hidden_layers": 1, **sizes}
        parts["audio_tokenizer"] = AceStepAudioTokenizer(fsq_dim=WIDTH, **pooling)
        parts["audio_token_detokenizer"] = AceStepAudioTokenDetokenizer(**pooling)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    settings = Settings(
        cover_context=cover_context,  # type: ignore[arg-type]
        steps=4,
        shift=3.0,
        condition_tokens=256,
        geometry=Geometry(hop=20, past=40, lookahead=20, crossfade=4),
    )
    (folder / "demon.json").write_bytes(msgspec.json.encode(settings))
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
