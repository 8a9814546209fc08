# SPDX-License-Identifier: Apache-2.0
"""The decoder's forward pass, over the weights and blocks of diffusers' `AceStepTransformer1DModel`.

Ours differs from diffusers' own forward in two ways. Padded condition tokens are masked out of cross-attention, so a row's
result depends on its own condition only; and what depends on shapes alone (RoPE tables, the band mask of the sliding-attention
layers) is computed once. The second timestep is always equal to the first, as everywhere at inference.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor


class DitForward:
    """Velocity of a batch of noisy latents. Holds references to the model's modules, no copies of weights.

    Safe to call from one thread at a time. Differentiable, so that training runs the very same code.
    """

    def __init__(self, transformer: Any) -> None:
        self._model = transformer
        self._tables: dict[int, tuple[tuple[Tensor, Tensor], Tensor]] = {}

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        states: Tensor,
        mask: Tensor | None,
        context: Tensor,
    ) -> Tensor:
        """Velocity `v ~ noise - clean` of every row.

        x: noisy latents `[B, T, 64]`, T a multiple of the patch size (2); t: noise levels `[B]` in [0, 1];
        states: encoded condition `[B, L, E]`; mask: `[B, L]` bool, True for real tokens, None for all;
        context: `[B, T, 128]`, source latents and chunk mask. Returns `[B, T, 64]`.
        """
        model = self._model
        temb_t, modulation_t = model.time_embed(t)
        temb_r, modulation_r = model.time_embed_r(torch.zeros_like(t))
        temb, modulation = temb_t + temb_r, modulation_t + modulation_r

        hidden = torch.cat([context, x], dim=-1).transpose(1, 2)
        hidden = model.proj_in_conv(hidden).transpose(1, 2)
        condition = model.condition_embedder(states)
        key_mask = None if mask is None else mask[:, None, None, :]
        rope, band = self._shape_tables(hidden.shape[1], hidden)

        for layer, kind in zip(model.layers, model.layer_types, strict=True):
            hidden = layer(
                hidden_states=hidden,
                position_embeddings=rope,
                temb=modulation,
                attention_mask=band if kind == "sliding_attention" else None,
                encoder_hidden_states=condition,
                encoder_attention_mask=key_mask,
            )

        shift, scale = (model.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        hidden = model.norm_out(hidden) * (1 + scale) + shift
        return model.proj_out_conv(hidden.transpose(1, 2)).transpose(1, 2)

    def _shape_tables(self, tokens: int, like: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """RoPE (cos, sin) and the additive band mask `[1, 1, tokens, tokens]` of the sliding layers, cached by length."""
        if tokens not in self._tables:
            index = torch.arange(tokens)
            cos, sin = get_1d_rotary_pos_embed(
                self._model.head_dim,
                index.float().numpy(),
                theta=self._model.rope_theta,
                use_real=True,
                repeat_interleave_real=False,
            )
            far = (index[:, None] - index[None, :]).abs() > self._model.config.sliding_window
            band = torch.zeros(1, 1, tokens, tokens).masked_fill_(far, torch.finfo(like.dtype).min)
            self._tables[tokens] = ((cos.to(like), sin.to(like)), band.to(like))
        return self._tables[tokens]
