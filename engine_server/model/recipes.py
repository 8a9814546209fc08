# SPDX-License-Identifier: Apache-2.0
"""Which arithmetic each part of the decoder has, as data: in a TensorRT engine, and in torch with FP8 Linears.

The trunk is what is not a Linear: the residual stream, attention, norms and tables. Float16 ends at 65504, bfloat16 as far out as
float32 but with an eighth of float16's precision; so the stream, which grows from block to block, is bfloat16, and the Linears,
whose inputs are normalised, may be float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
import torch

Precision = Literal["fp32", "bf16", "fp16", "mixed", "fp8"]
"""Names of recipes."""
Arithmetic = Literal["fp32", "bf16", "fp16", "fp8"]
Trunk = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Arithmetic, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
TRUNKS: dict[torch.dtype, Trunk] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
BLOCKS = "layers."
"""Beginning of the module paths of everything within the transformer's blocks."""


@dataclass(frozen=True)
class Recipe:
    """The trunk's arithmetic, and rules for Linears and the two patch convolutions: the first whose pattern matches counts.

    A pattern is a module path of diffusers' transformer in which `*` stands for anything, dots included. What no rule matches
    computes as the trunk does. FP8 is for Linears of the blocks only. Raises ValueError for FP8 elsewhere.
    """

    name: Precision
    trunk: Trunk
    rules: tuple[tuple[str, Arithmetic], ...] = ()

    def __post_init__(self) -> None:
        for pattern, arithmetic in self.rules:
            if arithmetic == "fp8" and not pattern.startswith(BLOCKS):
                raise ValueError(f"{self.name}: {pattern} is beyond the blocks, where nothing is calibrated for fp8")

    def __str__(self) -> str:
        """All of it but the name, as engines' notes have it."""
        return "; ".join([f"trunk {self.trunk}", *(f"{pattern} {arithmetic}" for pattern, arithmetic in self.rules)])

    def arithmetic(self, path: str) -> Arithmetic:
        """Of the Linear or convolution at a module path."""
        return next((arithmetic for pattern, arithmetic in self.rules if fnmatchcase(path, pattern)), self.trunk)

    @property
    def needs_calibration(self) -> bool:
        """Whether some Linear is quantised, so that an engine needs to know how large its inputs become."""
        return any(arithmetic == "fp8" for _, arithmetic in self.rules)


ENDS: tuple[tuple[str, Arithmetic], ...] = (("time_embed*", "fp32"), ("proj_out_conv", "fp32"))
"""Where errors reach every frame, or the result without anything after them; next to nothing of the work is there."""

RECIPES: dict[Precision, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", "fp32"),
        Recipe("bf16", "bf16"),
        Recipe("fp16", "fp16"),
        Recipe("mixed", "bf16", (*ENDS, (BLOCKS + "*", "fp16"))),
        Recipe("fp8", "bf16", (*ENDS, (BLOCKS + "*", "fp8"))),
    )
}


def in_words(recipe: Recipe, largest_inputs: Mapping[str, float]) -> str:
    """What besides the weights decides what an exported graph holds: another text asks for another export."""
    return msgspec.json.encode({"recipe": str(recipe), "largest_inputs": dict(largest_inputs)}, order="sorted").decode()
