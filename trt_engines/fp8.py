# SPDX-License-Identifier: Apache-2.0
"""Linears in FP8, computed in torch as in an engine, by operators that `fp8_onnx.py` turns into Quantize and Dequantize.

The format is E4M3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): four significant bits from 2^-6 to 448. Inputs
have one scale for all, known before; weights one for each output channel. All scales are powers of two. A number with an exponent
of its own loses nothing by that but up to one bit of range, and then both operators are exact but for the one rounding: scaled
back, a value is the same in bfloat16, float16 and float32, so that eager, onnxruntime and a GPU multiply the same numbers.

Weights are stored quantised, with their scales beside them as `weight_scale`: the graph and an engine then hold a byte of each,
and a LoRA is refitted as the very numbers that are computed with, along with the scales of channels that it makes larger. Were
they stored wide, behind a Quantize, it would depend on what TensorRT folds whether they can be refitted, and scales would be
refitted all the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
HEADROOM = 2
"""How much larger inputs may become than calibration saw before they are cut off. Eight times more costs nothing either."""


class Fp8Linear(nn.Module):
    """A Linear `[..., in] -> [..., out]` on inputs and weights rounded to E4M3, in the given type otherwise.

    weight: `[out, in]` E4M3; weight_scale: `[out]`, what each row of it is multiplied by.
    """

    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, largest: float) -> None:
        """dtype: of inputs and results; largest: of the inputs' absolute values."""
        super().__init__()
        weight, scales = quantize(linear.weight.detach().float())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("weight_scale", scales.to(dtype))
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
        self._scale = 2.0 ** exponent(largest * HEADROOM)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(rounded(x, self._scale), widened(self.weight, self.weight_scale), self.bias)


def exponent(largest: float) -> int:
    """The least power of two by which `largest` becomes less than E4M3's greatest; 0 for 0."""
    return math.frexp(largest / LARGEST)[1]


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[out, in]` float32 to E4M3 and scales `[out]` float32. What a LoRA is refitted with comes from here, too."""
    exponents = torch.frexp(weight.abs().amax(1) / LARGEST).exponent
    scales = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
    return (weight / scales[:, None]).to(FP8), scales


@torch.library.custom_op("demon::fp8_rounded", mutates_args=())
def rounded(x: Tensor, scale: float) -> Tensor:
    """x in E4M3 and back: to nearest, ties to even; what is too large becomes the largest that there is."""
    return (x / scale).clamp(-LARGEST, LARGEST).to(FP8).to(x.dtype) * scale


@torch.library.custom_op("demon::fp8_widened", mutates_args=())
def widened(weight: Tensor, scales: Tensor) -> Tensor:
    """E4M3 `[out, in]`, each row times its scale, in the type of the scales."""
    return weight.to(scales.dtype) * scales[:, None]


@rounded.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@widened.register_fake
def _(weight: Tensor, scales: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=scales.dtype)
