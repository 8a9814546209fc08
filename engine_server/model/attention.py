# SPDX-License-Identifier: Apache-2.0
"""Attention of the DiT: whole, under an additive bias, or within a sliding window by blocks of queries.

A layer with a window of w tokens to each side lets a query hear 2w + 1 keys at most. Under a bias all S keys are scored and most
scores thrown away: S x S of everything. By blocks (as in Longformer, Beltagy et al. 2020) w queries that follow one another share
the 3w keys from w before their first to w after their last, which is `3w S` of everything and the same set of keys: what no
query of a block may hear is biased away as before. Results differ from those under a bias by the rounding of other sums.

Shapes: B rows, S tokens, N blocks of w tokens, the last one filled up.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine_server.diffusion.upload import upload

BLOCKS_FROM_WINDOWS, BLOCKS_FROM_TOKENS = 5, 320
"""Windows and tokens in a sequence from which blocks are taken. In float32 on a CPU they gain nothing at 4 windows, a quarter of
the time at 5 and more than half at 12 (`python -m tests.bench --only attention`). Shorter sequences keep diffusers' bits."""


def takes_blocks(tokens: int, window: int) -> bool:
    """Whether a sequence is so much longer than the window that it is attended to by blocks."""
    return tokens >= max(BLOCKS_FROM_WINDOWS * window, BLOCKS_FROM_TOKENS) and window > 0


def band_bias(tokens: int, window: int, like: Tensor, *, real: int) -> Tensor:
    """Additive `[1, 1, S, S]` like `like`: 0 for keys that lie within the window and among the first `real` tokens."""
    place = torch.arange(tokens)
    is_heard = ((place[:, None] - place).abs() <= window) & (place < real)
    return _bias(is_heard[None, None], like)


def block_bias(tokens: int, window: int, like: Tensor, *, real: int) -> Tensor:
    """The same for `attend_by_blocks`: additive `[N, 1, w, 3w]`."""
    blocks = -(-tokens // window)
    query = torch.arange(blocks * window).reshape(blocks, window, 1)
    key = window * torch.arange(-1, blocks - 1)[:, None, None] + torch.arange(3 * window)
    is_heard = ((query - key).abs() <= window) & (key >= 0) & (key < real)
    return _bias(is_heard[:, None], like)


def key_bias(tokens: int, like: Tensor, *, real: int) -> Tensor:
    """Additive `[1, 1, 1, S]`: 0 for the first `real` tokens."""
    return _bias((torch.arange(tokens) < real)[None, None, None], like)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Grouped-query attention of `[B, heads, S, head_dim]` over `[B, kv_heads, L, head_dim]`, as `[B, S, heads * head_dim]`."""
    return _attention(query, key, value, bias, scale).transpose(1, 2).flatten(2)


def attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`attend` within a window of w tokens to each side, bias as `block_bias` makes it.

    Blocks take the place of the batch and rows stand among the heads: every row has its own sums, and one bias serves all.
    """
    rows, heads, tokens, _ = query.shape
    blocks, _, window, _ = bias.shape
    query = F.pad(query, (0, 0, 0, blocks * window - tokens)).unflatten(2, (blocks, window))
    query = query.permute(2, 0, 1, 3, 4).flatten(1, 2)
    out = _attention(query, _around(key, blocks, window), _around(value, blocks, window), bias, scale)
    return out.unflatten(1, (rows, heads)).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)[:, :tokens]


def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if bias is not None and query.is_cuda:
        # No fused CUDA kernel takes both a bias and grouped heads: torch would fall back to the unfused one.
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, bias, scale=scale, enable_gqa=grouped)


def _around(x: Tensor, blocks: int, window: int) -> Tensor:
    """`[B, kv_heads, S, head_dim]` to every block with its neighbours, `[N, B * kv_heads, 3w, head_dim]`; zeros outside."""
    padded = F.pad(x, (0, 0, window, (blocks + 1) * window - x.shape[2]))
    return padded.unfold(2, 3 * window, window).permute(2, 0, 1, 4, 3).flatten(1, 2)


def _bias(is_heard: Tensor, like: Tensor) -> Tensor:
    bias = torch.zeros(is_heard.shape, dtype=like.dtype)
    return upload(bias.masked_fill_(~is_heard, torch.finfo(like.dtype).min), like.device)
