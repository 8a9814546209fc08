# SPDX-License-Identifier: Apache-2.0
"""Linears that compute in another type than the decoder around them, and a transformer with a recipe's in its Linears' places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine_server.model.lora import linear_shapes
from engine_server.model.recipes import DTYPES, Recipe

Quantized = Callable[[str, nn.Linear], nn.Module]
"""What computes in FP8 in the place of the Linear at a module path."""
TIME = "time_embed"
"""Beginning of the module paths of the Linears whose results stay in their own type: `velocity` casts them where it must."""


class CastLinear(nn.Module):
    """A Linear `[..., in] -> [..., out]` between casts; its parameters are called as a Linear's."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, returns: torch.dtype | None) -> None:
        """dtype: of weights and arithmetic; returns: of results, None for `dtype`."""
        super().__init__()
        self.weight = frozen(linear.weight, dtype)
        self.bias = None if linear.bias is None else frozen(linear.bias, dtype)
        self._returns = returns or dtype

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(self._returns)


def with_recipe(transformer: Any, recipe: Recipe, quantized: Quantized) -> Any:
    """A transformer as a recipe has it. The given one is not changed; weights that have their type already are shared.

    Takes diffusers' `AceStepTransformer1DModel`. The patch convolutions stay as they are: whoever asks sees to them.
    """
    trunk = DTYPES[recipe.trunk]
    places: dict[int, Any] = {
        id(part): part if part.dtype == trunk or not part.is_floating_point() else frozen(part, trunk)
        for part in (*transformer.parameters(), *transformer.buffers())
    }
    for path, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            arithmetic = recipe.arithmetic(path)
            if arithmetic == "fp8":
                places[id(module)] = quantized(path, module)
            elif arithmetic != recipe.trunk:
                places[id(module)] = CastLinear(module, DTYPES[arithmetic], None if path.startswith(TIME) else trunk)
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            places[id(module)] = module
    return copy.deepcopy(transformer, places)


def quantized_linears(transformer: nn.Module, recipe: Recipe) -> list[str]:
    """Module paths of the Linears that a recipe computes in FP8."""
    return [name for name in linear_shapes(transformer) if recipe.arithmetic(name) == "fp8"]


def frozen(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    """A parameter that nothing trains, with the numbers of `weight` in another type."""
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)
