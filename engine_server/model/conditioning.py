# SPDX-License-Identifier: Apache-2.0
"""From words to what the decoder attends to: upstream's prompt template, the text encoder and the condition encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.ace_step.pipeline_ace_step import SFT_GEN_PROMPT, TASK_INSTRUCTIONS
from torch import Tensor
from torch.nn import functional as F

MAX_TEXT_TOKENS = 256
MAX_LYRIC_TOKENS = 2048
TIMBRE_FRAMES = 750
"""Length of the timbre reference that the condition encoder was trained with: 30 s."""


@dataclass(frozen=True)
class Condition:
    """One encoded prompt. `states` is `[1, L, D]` float32, zero where padded; `mask` is `[1, L]` bool, True for real tokens."""

    states: Tensor
    mask: Tensor


def format_prompt(caption: str, task: str = "cover") -> str:
    """The text prompt of upstream's template, with the metas that a track does not state left open (N/A)."""
    metas = "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 30 seconds\n"
    return SFT_GEN_PROMPT.format(TASK_INSTRUCTIONS[task], caption, metas)


def format_lyrics(lyrics: str = "", language: str = "en") -> str:
    """The lyric prompt of upstream's template; empty lyrics mean an instrumental."""
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"


def encode_condition(
    caption: str, *, tokenizer: Any, text_encoder: Any, condition_encoder: Any, task: str = "cover"
) -> Condition:
    """Encode a caption, unpadded, with the silence latent as timbre reference.

    Differentiable; wrap in `torch.no_grad()` at inference.
    """
    device = condition_encoder.null_condition_emb.device
    text = tokenizer(format_prompt(caption, task), truncation=True, max_length=MAX_TEXT_TOKENS, return_tensors="pt")
    lyric = tokenizer(format_lyrics(), truncation=True, max_length=MAX_LYRIC_TOKENS, return_tensors="pt")
    states, mask = condition_encoder(
        text_hidden_states=text_encoder(input_ids=text.input_ids.to(device)).last_hidden_state,
        text_attention_mask=text.attention_mask.to(device).bool(),
        lyric_hidden_states=text_encoder.get_input_embeddings()(lyric.input_ids.to(device)),
        lyric_attention_mask=lyric.attention_mask.to(device).bool(),
        refer_audio_acoustic_hidden_states_packed=condition_encoder.silence_latent[:, :TIMBRE_FRAMES],
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=device),
    )
    return Condition(states, mask.bool())


def pad_condition(condition: Condition, tokens: int) -> Condition:
    """Zero-pad to a length that the configuration fixes, so that no neighbour's prompt can change a row's bits.

    The length is `tokens`, or the smallest power-of-two multiple of it that holds the condition.
    """
    while tokens < condition.states.shape[1]:
        tokens *= 2
    extra = tokens - condition.states.shape[1]
    return Condition(F.pad(condition.states, (0, 0, 0, extra)), F.pad(condition.mask, (0, extra)))
