# SPDX-License-Identifier: Apache-2.0
"""The DiT with FP8 Linears by torch, for GPUs that multiply E4M3 (compute capability 8.9 and later); a CPU computes the same.

Weights are rounded once, per output channel; what they are multiplied with at every call, per row of the matrix (per token). So
nothing has to be calibrated, nothing is ever cut off, and a row's bits depend on that row only. A TensorRT engine, whose inputs
have one scale for all, needs a calibration instead (`trt_engines/fp8.py`).

The recipe `fp8` says which Linears compute in FP8, as in an engine; the trunk has the model's own type. Adapters stand beside the
products, in the trunk's type: their strengths change without anything being quantised again. Inference only.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine_server.model.fp8 import FP8, quantize
from engine_server.model.lora import linear_shapes
from engine_server.model.recipe_linears import quantized_linears, with_recipe
from engine_server.model.recipes import DTYPES, RECIPES, TRUNKS
from shared_protocol.errors import DemonError

MULTIPLE = 16
"""Of both sides of a matrix that a GPU multiplies in FP8."""
OUT = "proj_out_conv"


class ScaledLinear(nn.Module):
    """A Linear `[..., in] -> [..., out]` over E4M3; what comes in has the type of what goes out.

    weight: `[out, in]` E4M3; weight_scale: `[1, out]` float32, what each row of it is multiplied by.
    """

    weight_scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scales = quantize(linear.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("weight_scale", scales[None])
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        rows, scales = quantize(x.flatten(0, -2))
        # A GPU multiplies rows that lie in one piece each; those of a batch of one come channels-first.
        out = product(rows.contiguous(), scales[:, None], self.weight, self.weight_scale, x.dtype)
        if self.bias is not None:  # not within the product: not every GPU adds one there in every type
            out = out + self.bias
        return out.unflatten(0, x.shape[:-1])


class CastConvolution(nn.Module):
    """A convolution in another type than what comes in; its results keep that type."""

    def __init__(self, convolution: nn.Module, dtype: torch.dtype) -> None:
        """dtype: of weights, arithmetic and results."""
        super().__init__()
        self.convolution = copy.deepcopy(convolution).to(dtype)
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.convolution(x.to(self._dtype))
        return out


def product(rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """`(rows * row_scales) @ (weight.T * weight_scales)` in `dtype`: E4M3 by E4M3, summed wide, scaled, rounded once.

    rows: `[M, in]` E4M3, row_scales: `[M, 1]` float32, weight: `[out, in]` E4M3, weight_scales: `[1, out]` float32.
    """
    # Fast accumulation: a sum of some thousand products, each off by several percent, needs no float32 to the last bit.
    return torch._scaled_mm(rows, weight.t(), row_scales, weight_scales, out_dtype=dtype, use_fast_accum=True)


def fp8_blocks(transformer: Any) -> Any:
    """A transformer that computes as the recipe `fp8` says, its trunk in the type that it has; what stays as it was is shared.

    Takes diffusers' `AceStepTransformer1DModel` and leaves it as it is. Raises DemonError `E_BACKEND` if the device does not
    multiply E4M3, or not for the model's type, or if a Linear's widths do not suit it.
    """
    trunk, device = transformer.proj_in_conv.weight.dtype, transformer.proj_in_conv.weight.device
    recipe = replace(RECIPES["fp8"], trunk=TRUNKS[trunk])
    shapes = linear_shapes(transformer)
    for name in quantized_linears(transformer, recipe):
        if any(side % MULTIPLE for side in shapes[name]):
            raise DemonError(
                "E_BACKEND",
                f"fp8 is for widths that are multiples of {MULTIPLE}, and {name} has {' x '.join(map(str, shapes[name]))}; "
                "load it without quantization",
            )
    _check(device, trunk)
    model = with_recipe(transformer, recipe, lambda _, linear: ScaledLinear(linear))
    if recipe.arithmetic(OUT) != recipe.trunk:
        setattr(model, OUT, CastConvolution(getattr(model, OUT), DTYPES[recipe.arithmetic(OUT)]))
    return model


def _check(device: torch.device, dtype: torch.dtype) -> None:
    """Ask torch itself: which GPUs multiply what depends on its version and on CUDA's."""
    square = torch.ones(MULTIPLE, MULTIPLE, device=device).to(FP8)
    scales = torch.ones(MULTIPLE, 1, device=device)
    try:
        product(square, scales, square, scales.t(), dtype)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise DemonError(
            "E_BACKEND",
            f"fp8 does not run on {device} with {str(dtype).removeprefix('torch.')} ({error}); it needs a GPU of compute "
            "capability 8.9 or later and dtype bfloat16; load it without quantization",
        ) from error
