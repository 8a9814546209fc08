# SPDX-License-Identifier: Apache-2.0
"""The weights of an engine with LoRAs merged into them: what `export_decoder` would have written of such a checkpoint.

They are made of the checkpoint's own weights each time, never of what an engine holds: merged in float32, where the device rounds
sums in its own order, then cast to the type that the engine's recipe has for that Linear, or in FP8 quantised with their scales.
Without LoRAs they are what the engine was built with, to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from engine_server.model.dit_block import embed_time
from engine_server.model.fp8 import quantize
from engine_server.model.lora import Share
from engine_server.model.lora_mix import BARE, Mix
from engine_server.model.recipe_linears import with_recipe
from engine_server.model.recipes import BLOCKS, DTYPES, Recipe
from trt_engines.decoder_module import SECOND_TIME
from trt_engines.export_decoder import SECOND_EMBEDDER, refit_weights

SECOND_UNIT = SECOND_EMBEDDER.removesuffix(".")
Arrays = dict[str, Tensor]
"""By the names that an engine has for them."""
UnitShares = dict[str, Share]
"""By the Linears of a unit that are changed."""


class MergedWeights:
    """Arrays of an engine in units that are made at once: a Linear by its module path, or `time_embed_r`, whose Linears are two
    constants in an engine.

    transformer: diffusers' `AceStepTransformer1DModel` with the weights that the engine was built of, in the types of their
    file; it stays where it is and is not changed. device: where arrays are made; what is adapted has a copy there. One thread at
    a time.
    """

    def __init__(self, transformer: Any, recipe: Recipe, device: torch.device) -> None:
        self._transformer = transformer
        self._recipe = recipe
        self._device = device
        self._linears = {name: part for name, part in transformer.named_modules() if isinstance(part, nn.Linear)}
        self._kept: dict[str, Tensor] = {}
        """Bare weights on the device, of Linears that are adapted: a fader that moves uploads nothing of them."""
        self.shapes = refit_weights(transformer, recipe)
        """By the engine's names, of everything that a mix may change."""

    def counts(self) -> Mapping[str, tuple[int, torch.dtype]]:
        """Elements and type of every array, as an engine must have been built with them."""
        second = {name: part.dtype for name, part in self._second_time(BARE).items()}
        return {name: (math.prod(shape), self._dtype(name, second)) for name, shape in self.shapes.items()}

    def unit_of(self, name: str) -> str | None:
        """The unit that an engine's array is made with; None for one that no LoRA changes."""
        if name in SECOND_TIME:
            return SECOND_UNIT
        return name.rpartition(".")[0] if name in self.shapes else None

    def shares(self, mix: Mix) -> dict[str, UnitShares]:
        """What each unit is changed by; units that nothing changes are left out. Equal ones give equal arrays."""
        units: dict[str, UnitShares] = {}
        for name, share in mix.shares.items():
            unit = SECOND_UNIT if name.startswith(SECOND_EMBEDDER) else name
            units.setdefault(unit, {})[name] = share
        return units

    @torch.no_grad()
    def of(self, unit: str, mix: Mix) -> Arrays:
        """The arrays of a unit, contiguous, on the device or on the host. May raise `torch.OutOfMemoryError`."""
        if unit == SECOND_UNIT:
            return self._second_time(mix)
        merged = mix.weight(unit, self._bare(unit, is_kept=unit in mix.shares))
        arithmetic = self._recipe.arithmetic(unit)
        if arithmetic == "fp8":
            stored, scales = quantize(merged)
            return {f"{unit}.weight": stored, f"{unit}.weight_scale": scales.to(DTYPES[self._recipe.trunk])}
        return {f"{unit}.weight": merged.to(DTYPES[arithmetic])}

    def keep_only(self, mix: Mix) -> None:
        """Forget the device's copies of what a mix does not adapt."""
        self._kept = {name: base for name, base in self._kept.items() if name in mix.shares}

    def _bare(self, name: str, *, is_kept: bool) -> Tensor:
        base = self._kept.get(name)
        if base is None:
            base = self._linears[name].weight.detach().to(self._device)
            if is_kept:
                self._kept[name] = base
        return base

    def _second_time(self, mix: Mix) -> Arrays:
        part = nn.Module()
        part.add_module(SECOND_UNIT, copy.deepcopy(getattr(self._transformer, SECOND_UNIT)).float())
        for name, linear in part.named_modules():
            if isinstance(linear, nn.Linear):
                linear.weight = nn.Parameter(mix.weight(name, linear.weight.detach()), requires_grad=False)
        with torch.no_grad():
            typed = with_recipe(part, self._recipe, _never)
            made = embed_time(getattr(typed, SECOND_UNIT), torch.zeros(1), None)
        return dict(zip(SECOND_TIME, (each.contiguous() for each in made), strict=True))

    def _dtype(self, name: str, second: Mapping[str, torch.dtype]) -> torch.dtype:
        if name in second:
            return second[name]
        is_scale = name.endswith(".weight_scale")
        return DTYPES[self._recipe.trunk if is_scale else self._recipe.arithmetic(name.rpartition(".")[0])]


def _never(name: str, linear: nn.Linear) -> nn.Module:
    raise AssertionError(f"{name}: no recipe embeds times in FP8")


def in_blocks(units: Iterable[str]) -> list[list[str]]:
    """Units by the transformer's block that they are in, so that the arrays of one block are in memory at once, not of all."""
    return [list(block) for _, block in groupby(sorted(units, key=_block), key=_block)]


def _block(unit: str) -> str:
    return ".".join(unit.split(".")[:2]) if unit.startswith(BLOCKS) else ""
