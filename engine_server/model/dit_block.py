# SPDX-License-Identifier: Apache-2.0
"""The parts of the DiT as functions over diffusers' modules: adapted Linears, norms, attention, one block.

The arithmetic follows diffusers' `AceStepTransformer1DModel` to the last bit in float32 on the CPU; what differs is the data's
layout and what is computed how often. Every function is differentiable and free of side effects.

Shapes: B rows, S tokens (two latent frames each), H hidden width, L condition tokens, A columns of adapter strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine_server.model.attention import attend, attend_by_blocks

Branch = tuple[int, tuple[Tensor, Tensor]]
"""Column of the strengths, and the low-rank pair (down `[r, in]`, up `[out, r]`)."""


class AdapterSet(Protocol):
    """The low-rank adapters (Hu et al. 2021, "LoRA") that there are at one moment; never changes."""

    version: int

    def branches(self, name: str) -> Sequence[Branch]:
        """The branches beside the Linear at the module path `name`, in the order of their registration."""
        ...


class Adapters(Protocol):
    """A bank of adapters, which may change between two forwards but not for one that runs."""

    @property
    def snapshot(self) -> AdapterSet:
        """The adapters that there are now, with another `version` after every change."""
        ...


class RowAdapters(NamedTuple):
    """The branches of a forward, by the Linear that they stand beside, and each row's strengths `[B, A]`."""

    branches: Mapping[nn.Module, Sequence[Branch]]
    strengths: Tensor

    def beside(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """`y`, what a Linear made of `x`, with each adapter's branch at its row's strength.

        One pair of products per adapter, so that a row's bits do not depend on which other adapters there are. An adapter
        without a column is younger than the strengths, and asked for by no row. Branches keep their type where a Linear has a
        wider one.
        """
        for place, (down, up) in self.branches.get(module, ()):
            if place < self.strengths.shape[1]:
                strength = self.strengths[:, place].reshape(-1, *(1,) * (x.ndim - 1))
                y = y + ((x.to(down.dtype) @ down.T) * strength) @ up.T
        return y


class StackedAdapters(NamedTuple):
    """The same in one pair of products, `down` `[R, in]` and `up` `[out, R]`, with each row's strengths by column `[B, R]`."""

    pairs: Mapping[nn.Module, tuple[Tensor, Tensor]]
    strengths: Tensor

    def beside(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See `RowAdapters.beside`."""
        if module not in self.pairs:
            return y
        down, up = self.pairs[module]
        strength = self.strengths.reshape(len(x), *(1,) * (x.ndim - 2), -1)
        return y + ((x.to(down.dtype) @ down.T) * strength) @ up.T


Beside = RowAdapters | StackedAdapters


class Tables(NamedTuple):
    """What depends on the number of tokens only. Biases are additive, in the model's dtype, and None where none is needed.

    cos, sin: `[S, 1, head_dim]` float32, the first half of sin negated. Layers with a window take `blocks`, or where that is None
    `band` (see `block_bias` and `band_bias`); the others take `keys`, which hides tokens that only fill up (`key_bias`).
    """

    cos: Tensor
    sin: Tensor
    band: Tensor | None
    blocks: Tensor | None = None
    keys: Tensor | None = None


def linear(module: nn.Module, x: Tensor, adapters: Beside | None) -> Tensor:
    """`module(x)` plus what adapters add to it; x is `[B, ..., in]`."""
    y: Tensor = module(x)
    return y if adapters is None else adapters.beside(module, x, y)


def embed_time(embed: Any, t: Tensor, adapters: Beside | None) -> tuple[Tensor, Tensor]:
    """Noise levels `[B]` float32 to the embedding `[B, H]` and the blocks' modulation `[B, 6, H]`; sinusoid in float32."""
    waves = embed.time_sinusoid(t * embed.scale).to(embed.linear_1.weight.dtype)
    embedding = linear(embed.linear_2, F.silu(linear(embed.linear_1, waves, adapters)), adapters)
    modulation = linear(embed.time_proj, F.silu(embedding), adapters)
    return embedding, modulation.unflatten(1, (6, -1))


def block(
    layer: Any,
    hidden: Tensor,
    modulation: Tensor,
    tables: Tables,
    condition: tuple[Tensor, Tensor, Tensor],
    adapters: Beside | None,
) -> Tensor:
    """One transformer block over hidden `[B, S, H]`, under modulation `[B, 6, H]` and a layer's (key bias, key, value)."""
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (layer.scale_shift_table + modulation).chunk(6, dim=1)
    x = normalize(layer.self_attn_norm, hidden) * (1 + scale) + shift
    hidden = hidden + self_attention(layer.self_attn, x, tables, adapters) * gate
    x = normalize(layer.cross_attn_norm, hidden)
    hidden = hidden + cross_attention(layer.cross_attn, x, condition, adapters)
    x = normalize(layer.mlp_norm, hidden) * (1 + mlp_scale) + mlp_shift
    return hidden + swiglu(layer.mlp, x, adapters) * mlp_gate


def normalize(norm: Any, hidden: Tensor) -> Tensor:
    """RMS norm of hidden `[B, S, H]` over its channels.

    diffusers keeps the hidden states channels-first in memory, as the patch convolution left them, and pays for it with a copy
    at every Linear. Here they are channels-last; only the squares are summed channels-first, because the order of a sum is
    visible in its last bits.
    """
    if hidden.dtype != torch.float32 or hidden.device.type != "cpu":
        return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.eps)
    mean_square = hidden.transpose(1, 2).contiguous().pow(2).mean(1).unsqueeze(-1)
    return hidden * torch.rsqrt(mean_square + norm.eps) * norm.weight


def self_attention(attn: Any, x: Tensor, tables: Tables, adapters: Beside | None) -> Tensor:
    """Attention of x `[B, S, H]` to itself: normalised heads, rotary positions, the band where the layer has one."""
    query = rotate(normalize_heads(attn.norm_q, heads(attn, linear(attn.to_q, x, adapters))), tables)
    key = rotate(normalize_heads(attn.norm_k, heads(attn, linear(attn.to_k, x, adapters))), tables)
    value = heads(attn, linear(attn.to_v, x, adapters))
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if attn.sliding_window is not None and tables.blocks is not None:
        out = attend_by_blocks(query, key, value, tables.blocks, attn.scaling)
    else:
        bias = tables.keys if attn.sliding_window is None or tables.band is None else tables.band
        out = attend(query, key, value, bias, attn.scaling)
    return linear(attn.to_out[0], out, adapters)


def cross_keys_and_values(attn: Any, condition: Tensor, adapters: Beside | None) -> tuple[Tensor, Tensor]:
    """What a layer's cross-attention needs of an embedded condition `[N, L, H]`: key and value `[N, kv_heads, L, head_dim]`."""
    key = normalize_heads(attn.norm_k, heads(attn, linear(attn.to_k, condition, adapters)))
    value = heads(attn, linear(attn.to_v, condition, adapters))
    return key.transpose(1, 2), value.transpose(1, 2)


def cross_attention(attn: Any, x: Tensor, condition: tuple[Tensor, Tensor, Tensor], adapters: Beside | None) -> Tensor:
    """Attention of x `[B, S, H]` to a condition: key bias `[B, 1, 1, L]`, key and value `[B, kv_heads, L, head_dim]`."""
    bias, key, value = condition
    query = normalize_heads(attn.norm_q, heads(attn, linear(attn.to_q, x, adapters)))
    return linear(attn.to_out[0], attend(query.transpose(1, 2), key, value, bias, attn.scaling), adapters)


def swiglu(mlp: Any, x: Tensor, adapters: Beside | None) -> Tensor:
    """The gated MLP (Shazeer 2020)."""
    gated = F.silu(linear(mlp.gate_proj, x, adapters)) * linear(mlp.up_proj, x, adapters)
    return linear(mlp.down_proj, gated, adapters)


def heads(attn: Any, x: Tensor) -> Tensor:
    """`[B, S, heads * head_dim]` to `[B, S, heads, head_dim]`."""
    return x.unflatten(-1, (-1, attn.head_dim))


def normalize_heads(norm: Any, x: Tensor) -> Tensor:
    """RMS norm of every head of x `[B, S, heads, head_dim]`."""
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


def rotate(x: Tensor, tables: Tables) -> Tensor:
    """Rotary positions (Su et al. 2021) in half-split layout, in float32; x is `[B, S, heads, head_dim]`."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    return (x.float() * tables.cos + swapped.float() * tables.sin).to(x.dtype)
