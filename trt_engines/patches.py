# SPDX-License-Identifier: Apache-2.0
"""The DiT's two patch convolutions as matrix products, because TensorRT has no bfloat16 deconvolution in one dimension.

A convolution whose kernel is as long as its stride sees every frame once: it is a Linear over patches of consecutive frames.
The names of the weights stay; their layout is a Linear's:

| name | shape here | shape in diffusers | how |
|---|---|---|---|
| `proj_in_conv.weight` | `[H, P * C]` | `[H, C, P]` | last two axes swapped, then joined |
| `proj_in_conv.bias` | `[H]` | `[H]` | as it is |
| `proj_out_conv.weight` | `[P * D, H]` | `[H, D, P]` | axes reversed, then the first two joined |
| `proj_out_conv.bias` | `[P * D]` | `[D]` | P times over |

H: hidden width, P: frames of a patch, C: channels of a frame with its context, D: channels of a latent frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchIn(nn.Module):
    """In a `Conv1d`'s place, with its layout: frames `[B, C, T]` to tokens `[B, H, T / P]`.

    A T that is no multiple of P is an error wherever the graph runs; no frame is dropped. Tokens have the frames' type.
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        """dtype: of weights and arithmetic."""
        super().__init__()
        self._patch = conv.stride[0]
        self.weight = _frozen(conv.weight.permute(0, 2, 1).flatten(1), dtype)
        self.bias = None if conv.bias is None else _frozen(conv.bias, dtype)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        rows, channels, length = frames.shape
        patches = frames.transpose(1, 2).reshape(rows, length // self._patch, self._patch * channels)
        return F.linear(patches.to(self.weight.dtype), self.weight, self.bias).to(frames.dtype).transpose(1, 2)


class PatchOut(nn.Module):
    """In a `ConvTranspose1d`'s place, with its layout: tokens `[B, H, S]` to frames `[B, D, S * P]` in the weights' type."""

    def __init__(self, conv: nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        """dtype: of weights and arithmetic."""
        super().__init__()
        self._patch = conv.stride[0]
        self.weight = _frozen(conv.weight.permute(2, 1, 0).flatten(0, 1), dtype)
        self.bias = None if conv.bias is None else _frozen(conv.bias.repeat(self._patch), dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        rows, _, length = tokens.shape
        patches = F.linear(tokens.transpose(1, 2).to(self.weight.dtype), self.weight, self.bias)
        return patches.reshape(rows, length * self._patch, patches.shape[2] // self._patch).transpose(1, 2)


def _frozen(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype).contiguous(), requires_grad=False)
