# SPDX-License-Identifier: Apache-2.0
"""The decoder's forward pass over the weights of diffusers' `AceStepTransformer1DModel`.

The same function as diffusers' own forward, bit for bit in float32 on the CPU when nothing is padded, with these differences.
Sequences of many sliding windows are attended to by blocks (`attention.py`), where sums are rounded in another order.
Padded condition tokens are masked out of cross-attention, so that a row's result depends on its own condition only. What
depends on the condition alone (keys and values of every cross-attention) is computed once per condition, by `encode`; what
depends on shapes alone (rotary tables, the band of the sliding layers) once per length in use; and the second timestep, which at
inference always equals the first, is a constant of the model. Low-rank adapters run beside the Linears, per row.
There is no dropout, in training neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from engine_server.diffusion.upload import upload
from engine_server.model.adapter_stack import AdapterStack
from engine_server.model.attention import band_bias, block_bias, key_bias, takes_blocks
from engine_server.model.dit_block import (
    Adapters,
    AdapterSet,
    Beside,
    Branch,
    RowAdapters,
    Tables,
    block,
    cross_keys_and_values,
    embed_time,
    linear,
    normalize,
)

Velocity = Callable[..., Tensor]
MOST_LENGTHS = 4
"""Lengths whose tables are remembered: a session meets many, and their biases take memory."""


def velocity(
    model: Any,
    frames: Tensor,
    t: Tensor,
    second_time: tuple[Tensor, Tensor],
    tables: Tables,
    condition: tuple[Tensor, Tensor, Tensor],
    adapters: Beside | None,
) -> Tensor:
    """Velocity `[B, T, C]` of frames `[B, T, 3C]` (context, then noisy latents), T a multiple of the patch size.

    t: `[B]` float32; second_time: embedding and modulation of the second timestep, B rows each; condition: see
    `DitForward.encode`. A function of tensors alone, so that it can be compiled whole.
    """
    embedding, modulation = embed_time(model.time_embed, t, adapters)
    # The time's Linears may compute in a wider type than the blocks, whose hidden states must not become wider by it.
    embedding, modulation = embedding + second_time[0], (modulation + second_time[1]).to(frames.dtype)
    bias, keys, values = condition
    hidden = model.proj_in_conv(frames.transpose(1, 2)).transpose(1, 2)
    if hidden.shape[0] > 1:  # one row keeps diffusers' layout, in which matrix products of few tokens round differently
        hidden = hidden.contiguous()
    for index, layer in enumerate(model.layers):
        hidden = block(layer, hidden, modulation, tables, (bias, keys[:, index], values[:, index]), adapters)
    shift, scale = (model.scale_shift_table + embedding.unsqueeze(1)).chunk(2, dim=1)
    hidden = normalize(model.norm_out, hidden) * (1 + scale) + shift
    out: Tensor = model.proj_out_conv(hidden.transpose(1, 2)).transpose(1, 2)
    return out


class DitForward:
    """Velocity of a batch of noisy latents. Holds references to the model's modules, no copies of weights.

    One thread at a time. Differentiable; while gradients are recorded nothing that depends on weights is remembered.
    `run` is `velocity`, or a compiled form of it, which takes the adapters from `stack` if there is one; whoever calls keeps that
    up to date.
    """

    def __init__(
        self,
        transformer: Any,
        adapters: Adapters | None = None,
        *,
        run: Velocity = velocity,
        stack: AdapterStack | None = None,
    ) -> None:
        self._model = transformer
        self._adapters = adapters
        self._run = run
        self._stack = stack
        self._tables: dict[tuple[int, int | None, torch.dtype, torch.device], Tables] = {}
        self._second_times: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._branches: tuple[int, dict[nn.Module, Sequence[Branch]]] | None = None

    def weights_changed(self) -> None:
        """Forget what was computed from the weights: call after loading others into the same modules."""
        self._second_times.clear()

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What a forward needs of N conditions, independent of the latents and of the noise level.

        states: `[N, L, E]`; mask: `[N, L]` bool, True for real tokens; adapters: strengths `[N, A]`, None for no adapters.
        Returns the additive key bias `[N, 1, 1, L]` and, stacked over the layers, the keys and the values of cross-attention
        `[N, layers, kv_heads, L, head_dim]`, all in the model's dtype.
        """
        dtype = self._model.proj_in_conv.weight.dtype
        rows = self._row_adapters(adapters)
        condition = linear(self._model.condition_embedder, states.to(dtype), rows)
        layers = [cross_keys_and_values(layer.cross_attn, condition, rows) for layer in self._model.layers]
        bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
        keys, values = (torch.stack(part, dim=1) for part in zip(*layers, strict=True))
        return bias[:, None, None], keys, values

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        condition: tuple[Tensor, ...],
        adapters: Tensor | None = None,
        *,
        real_frames: int | None = None,
    ) -> Tensor:
        """Velocity `v ~ noise - clean` of every row, `[B, T, C]` float32.

        x: noisy latents `[B, T, C]`; t: noise levels `[B]` in [0, 1]; context: `[B, T, 2C]`, source latents and chunk mask;
        condition: B rows of what `encode` gave; adapters: strengths `[B, A]`, None for no adapters. An odd T is padded by one
        zero frame, as everywhere with this model. real_frames: how many are no filling that the others must not hear, if there
        may be any; None says that there is none.
        """
        length, patch = x.shape[1], self._model.patch_size
        frames = torch.cat([context, x], dim=-1).to(self._model.proj_in_conv.weight.dtype)
        if length % patch:
            frames = F.pad(frames, (0, 0, 0, patch - length % patch))
        rows = self._row_adapters(adapters)
        real = None if real_frames is None else -(-real_frames // patch)
        tables = self._shape_tables(frames.shape[1] // patch, real, frames)
        second_time = self._second_time(len(x), frames, rows)
        beside = rows if rows is None or self._stack is None else self._stack.rows(rows.strengths)
        out = self._run(self._model, frames, t.float(), second_time, tables, condition, beside)
        return out[:, :length].float()

    def _row_adapters(self, strengths: Tensor | None) -> RowAdapters | None:
        if strengths is None or self._adapters is None:
            return None
        branches = self._branches_of(self._adapters.snapshot)
        return RowAdapters(branches, strengths.to(self._model.proj_in_conv.weight.dtype))

    def _branches_of(self, snapshot: AdapterSet) -> Mapping[nn.Module, Sequence[Branch]]:
        """The branches by module, gathered once per version of the bank."""
        if self._branches is None or self._branches[0] != snapshot.version:
            named = ((module, snapshot.branches(name)) for name, module in self._model.named_modules())
            self._branches = (snapshot.version, {module: branches for module, branches in named if branches})
        return self._branches[1]

    def _second_time(self, rows: int, like: Tensor, adapters: RowAdapters | None) -> tuple[Tensor, Tensor]:
        """Embedding and modulation of the second timestep, `time_embed_r(0)`.

        Remembered per batch size, because a matrix product of one row may differ in its last bits from one of four.
        """
        embed = self._model.time_embed_r
        adapted = adapters is not None and any(module in adapters.branches for module in embed.modules())
        if adapted or torch.is_grad_enabled():
            return embed_time(embed, torch.zeros(rows, device=like.device), adapters)
        key = (rows, like.dtype, like.device)
        if key not in self._second_times:
            self._second_times[key] = embed_time(embed, torch.zeros(rows, device=like.device), None)
        return self._second_times[key]

    def _shape_tables(self, tokens: int, real: int | None, like: Tensor) -> Tables:
        """Rotary tables and biases for a number of tokens, remembered for the lengths used last."""
        key = (tokens, real, like.dtype, like.device)
        tables = self._tables.pop(key, None) or shape_tables(self._model, tokens, like, real=real)
        self._tables[key] = tables
        if len(self._tables) > MOST_LENGTHS:
            del self._tables[next(iter(self._tables))]
        return tables


@torch.inference_mode(False)
@torch.no_grad()
def shape_tables(model: Any, tokens: int, like: Tensor, *, real: int | None = None) -> Tables:
    """Rotary tables and biases for a number of tokens, on the device and (the biases) in the dtype of `like`.

    real: tokens that are no filling; with None all are, and the layers without a window need no bias. Ordinary tensors even in
    inference mode: remembered there, they may serve a forward that records gradients.
    """
    cos, sin = rotary_tables(model, tokens)
    keys = None if real is None else key_bias(tokens, like, real=real)
    tables = Tables(upload(cos, like.device), upload(sin, like.device), None, keys=keys)
    window, heard = model.config.sliding_window, tokens if real is None else real
    if takes_blocks(tokens, window):
        return tables._replace(blocks=block_bias(tokens, window, like, real=heard))
    if tokens - 1 > window:
        return tables._replace(band=band_bias(tokens, window, like, real=heard))
    return tables


def rotary_tables(model: Any, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[S, 1, head_dim]` float32 of the positions 0 to S - 1, the first half of the sines negated."""
    cos, sin = get_1d_rotary_pos_embed(
        model.head_dim, tokens, theta=model.rope_theta, use_real=True, repeat_interleave_real=False
    )
    sin = torch.where(torch.arange(model.head_dim) < model.head_dim // 2, -sin, sin)
    return cos[:, None], sin[:, None]
