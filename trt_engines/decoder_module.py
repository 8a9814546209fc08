# SPDX-License-Identifier: Apache-2.0
"""The decoder as one function of tensors that torch can export: `DitForward` with its tables and its constants inside.

It runs the engine's own `velocity`, so that what is exported is what eager computes. Three things differ from a call of
`DitForward`. The rotary tables are slices of one table for the greatest length, because a GPU's fast sine of some thousand
radians would be another table. What the second timestep adds is a constant. And the patch convolutions are matrix products
(`patches.py`). Which part computes in which type, a recipe says (`recipes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine_server.model.dit import rotary_tables, velocity
from engine_server.model.dit_block import Tables, cross_keys_and_values, embed_time
from engine_server.model.recipe_linears import with_recipe
from engine_server.model.recipes import DTYPES, Recipe
from trt_engines.calibration import NOTHING
from trt_engines.fp8 import Fp8Linear
from trt_engines.patches import PatchIn, PatchOut

SECOND_TIME = ("second_time_embedding", "second_time_modulation")
"""Constants `[1, H]` and `[1, 6, H]` in the place of the weights of `time_embed_r`: what `embed_time` makes of them at 0.
A LoRA that adapts `time_embed_r` changes these two."""
SHARED = ("time_embed", "condition_embedder", "layers", "norm_out")


class ExportableDecoder(nn.Module):
    """Velocity of noisy latents, with parameters called as in diffusers' `AceStepTransformer1DModel`.

    Exceptions: the layout of the patch convolutions' weights, and `time_embed_r`, of which `SECOND_TIME` is left.
    """

    time_embed: nn.Module
    condition_embedder: nn.Linear
    layers: nn.ModuleList
    norm_out: nn.Module
    second_time_embedding: Tensor
    second_time_modulation: Tensor
    rotary_cos: Tensor
    rotary_sin: Tensor
    positions: Tensor

    def __init__(
        self, transformer: Any, *, recipe: Recipe, max_frames: int, largest_inputs: Mapping[str, float] = NOTHING
    ) -> None:
        """transformer, recipe: see `with_recipe`. max_frames: the greatest T.

        largest_inputs: of each Linear that computes in FP8, by module path. Raises KeyError for one that is not there.
        """
        super().__init__()
        self._dtype = DTYPES[recipe.trunk]
        model = with_recipe(
            transformer, recipe, lambda path, linear: Fp8Linear(linear, self._dtype, largest_inputs[path])
        )
        self._patch = int(model.patch_size)
        self._window = int(model.config.sliding_window)
        for name in SHARED:
            self.add_module(name, getattr(model, name))
        self.scale_shift_table = model.scale_shift_table
        ends = {name: DTYPES[recipe.arithmetic(name)] for name in ("proj_in_conv", "proj_out_conv")}
        self.proj_in_conv = PatchIn(model.proj_in_conv, ends["proj_in_conv"])
        self.proj_out_conv = PatchOut(model.proj_out_conv, ends["proj_out_conv"])
        tokens = max_frames // self._patch
        with torch.no_grad():
            second_time = embed_time(model.time_embed_r, torch.zeros(1), None)
        for name, constant in zip(SECOND_TIME, second_time, strict=True):
            self.register_buffer(name, constant)
        cos, sin = rotary_tables(model, tokens)
        self.register_buffer("rotary_cos", cos)
        self.register_buffer("rotary_sin", sin)
        self.register_buffer("positions", torch.arange(tokens, dtype=torch.int32))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_mask: Tensor,
        context_latents: Tensor,
    ) -> Tensor:
        """Velocity `[B, T, D]` float32, with the arithmetic of the recipe.

        hidden_states: noisy latents `[B, T, D]` float32, T a multiple of the patch size; timestep: noise levels `[B]` float32
        in [0, 1]; encoder_hidden_states: conditions `[B, L, E]` float32; encoder_mask: `[B, L]` bool, True for real tokens;
        context_latents: `[B, T, 2D]` float32, source latents and chunk mask.
        """
        frames = torch.cat([context_latents, hidden_states], dim=-1).to(self._dtype)
        tokens = frames.shape[1] // self._patch
        positions = self.positions[:tokens]
        near = (positions[:, None] - positions[None, :]).abs() <= self._window
        tables = Tables(self.rotary_cos[:tokens], self.rotary_sin[:tokens], self._bias(near)[None, None])
        condition = self.condition_embedder(encoder_hidden_states.to(self._dtype))
        pairs = [cross_keys_and_values(layer.cross_attn, condition, None) for layer in self.layers]
        # Every query hears the same keys; ONNX's Attention wants that said for each.
        key_bias = self._bias(encoder_mask)[:, None, None].expand(-1, 1, tokens, -1)
        encoded = (key_bias, _ByLayer(key for key, _ in pairs), _ByLayer(value for _, value in pairs))
        second_time = (self.second_time_embedding, self.second_time_modulation)
        return velocity(self, frames, timestep, second_time, tables, encoded, None).float()  # type: ignore[arg-type]

    def _bias(self, seen: Tensor) -> Tensor:
        """What attention adds to its scores: 0 where `seen`, elsewhere so little that a softmax makes it 0.

        Half of the least number, not the least: a score added to that might be minus infinity, and a row of nothing else NaN.
        """
        low = torch.finfo(self._dtype).min / 2
        return torch.where(seen, torch.zeros((), dtype=self._dtype), torch.full((), low, dtype=self._dtype))


class _ByLayer(list[Tensor]):
    """Tensors of all layers, indexed as their stack would be, `[:, layer]`, but without copying them into one."""

    def __getitem__(self, place: Any) -> Any:
        return super().__getitem__(place[1])
