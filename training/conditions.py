# SPDX-License-Identifier: Apache-2.0
"""Conditions for a whole batch at once, equal to those of the engine's `Conditioner` row by row but much cheaper.

In training all rows share the lyric prompt and the timbre reference (silence), so both are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_server.model.prompts import format_lyrics
from engine_server.model.timbre import TIMBRE_FRAMES
from training.modules import DiffusionModules


def encode_conditions(modules: DiffusionModules, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Text prompts (`format_prompt`'s) to states [B, L, D] and key mask [B, L]; L is that of the longest row."""
    encoder, text_encoder = modules.condition_encoder, modules.text_encoder
    batch = len(prompts)
    text = modules.tokenizer(list(prompts), padding="longest", return_tensors="pt")
    lyric = modules.tokenizer(format_lyrics(), return_tensors="pt")
    # Padding sits on the right and the text encoder is causal: real tokens never see it, and no mask is needed.
    text_states = encoder.text_projector(text_encoder(input_ids=text.input_ids).last_hidden_state)
    lyric_states = encoder.lyric_encoder(
        inputs_embeds=text_encoder.get_input_embeddings()(lyric.input_ids), attention_mask=lyric.attention_mask.bool()
    )
    timbre_states, _ = encoder.timbre_encoder(
        encoder.silence_latent[:, :TIMBRE_FRAMES], torch.zeros(1, dtype=torch.long)
    )
    shared = torch.cat([lyric_states, timbre_states], dim=1).expand(batch, -1, -1)
    mask = torch.cat([torch.ones(batch, shared.shape[1], dtype=torch.bool), text.attention_mask.bool()], dim=1)
    return torch.cat([shared, text_states], dim=1), mask
