# SPDX-License-Identifier: Apache-2.0
"""Conditions for a whole batch at once, equal to those of the engine's `Conditioner` row by row but much cheaper.

In training all rows share the lyric prompt and the timbre reference (silence), so both are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_server.model.prompts import format_lyrics, format_prompt
from engine_server.model.timbre import TIMBRE_FRAMES
from training.modules import DiffusionModules


def encode_conditions(modules: DiffusionModules, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """States [B, L, D] and key mask [B, L]; L is that of the longest row."""
    encoder, text_encoder = modules.condition_encoder, modules.text_encoder
    batch = len(captions)
    text = modules.tokenizer([format_prompt(caption) for caption in captions], padding="longest", return_tensors="pt")
    lyric = modules.tokenizer(format_lyrics(), return_tensors="pt")
    text_states = encoder.text_projector(text_encoder(**_only_ids(text)).last_hidden_state)
    lyric_states = encoder.lyric_encoder(
        inputs_embeds=text_encoder.get_input_embeddings()(lyric.input_ids), attention_mask=lyric.attention_mask.bool()
    )
    timbre_states, _ = encoder.timbre_encoder(
        encoder.silence_latent[:, :TIMBRE_FRAMES], torch.zeros(1, dtype=torch.long)
    )
    shared = torch.cat([lyric_states, timbre_states], dim=1).expand(batch, -1, -1)
    mask = torch.cat([torch.ones(batch, shared.shape[1], dtype=torch.bool), text.attention_mask.bool()], dim=1)
    return torch.cat([shared, text_states], dim=1), mask


def _only_ids(text) -> dict[str, Tensor]:
    """Padding sits on the right and the text encoder is causal, so real tokens never see it: no mask needed."""
    return {"input_ids": text.input_ids}
