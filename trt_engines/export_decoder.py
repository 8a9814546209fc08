# SPDX-License-Identifier: Apache-2.0
"""The decoder (diffusers' `AceStepTransformer1DModel`, of any size) to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine_server.model.lora import linear_shapes
from engine_server.model.recipe_linears import quantized_linears
from engine_server.model.recipes import DTYPES, RECIPES, Recipe, in_words
from shared_protocol.errors import DemonError
from trt_engines.calibration import NOTHING
from trt_engines.decoder_module import SECOND_TIME, ExportableDecoder
from trt_engines.onnx_files import LIMITS, RECIPE
from trt_engines.onnx_graph import OPSETS, export_graph, save_graph

INPUTS = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_mask", "context_latents")
OUTPUTS = ("velocity",)
MAX_FRAMES = 6000
"""Default of the longest window: 240 s."""
MOST_FRAMES = 15000
"""600 s, the longest that ACE-Step v1.5 was trained on."""
EXAMPLE_ROWS, EXAMPLE_PATCHES, EXAMPLE_TOKENS = 2, 6, 5
"""What is traced. Any numbers would do but 0 and 1, which torch takes for constants, and no two alike."""
SECOND_EMBEDDER = "time_embed_r."


def export_decoder(
    transformer: Any,
    path: Path,
    *,
    recipe: Recipe = RECIPES["fp32"],
    largest_inputs: Mapping[str, float] = NOTHING,
    max_frames: int = MAX_FRAMES,
    opset: int | None = None,
    external_data: bool | None = None,
) -> None:
    """Write the decoder's forward to `path`; see `ExportableDecoder.forward` for its inputs and its output.

    Dynamic are B (1 and more), T (even, `max_frames` at most) and L. Inputs and output are float32, the mask bool; the types of
    arithmetic and weights are the recipe's; largest_inputs: see `ExportableDecoder`. The transformer is on the CPU and is not
    changed. opset: see `OPSETS`, by default for the trunk. external_data: see `save_graph`.

    Raises DemonError: `E_FIELD` for an odd or impossible `max_frames`, `E_BACKEND` for a transformer that is not on the CPU,
    `E_OUTPUT`.
    """
    patch = int(transformer.patch_size)
    if max_frames % patch or not 2 * patch <= max_frames <= MOST_FRAMES:
        raise DemonError(
            "E_FIELD",
            f"max_frames is {max_frames}; it must be a multiple of {patch} from {2 * patch} to {MOST_FRAMES}",
        )
    if (device := transformer.scale_shift_table.device).type != "cpu":
        raise DemonError("E_BACKEND", f"the transformer is on {device}; export it from the CPU")
    module = ExportableDecoder(transformer, recipe=recipe, max_frames=max_frames, largest_inputs=largest_inputs).eval()
    config = transformer.config
    latent = int(config.audio_acoustic_hidden_dim)
    frames = EXAMPLE_PATCHES * patch
    example = (
        torch.zeros(EXAMPLE_ROWS, frames, latent),
        torch.zeros(EXAMPLE_ROWS),
        torch.zeros(EXAMPLE_ROWS, EXAMPLE_TOKENS, transformer.condition_embedder.in_features),
        torch.ones(EXAMPLE_ROWS, EXAMPLE_TOKENS, dtype=torch.bool),
        torch.zeros(EXAMPLE_ROWS, frames, int(config.in_channels) - latent),
    )
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    length = patch * torch.export.Dim("patches", max=max_frames // patch)
    dynamic = ({0: rows, 1: length}, {0: rows}, {0: rows, 1: tokens}, {0: rows, 1: tokens}, {0: rows, 1: length})
    opset = OPSETS[DTYPES[recipe.trunk]] if opset is None else opset
    model = export_graph(module, example, dynamic, inputs=INPUTS, outputs=OUTPUTS, opset=opset)
    limits = {"hidden_states": {1: max_frames}, "context_latents": {1: max_frames}}
    model.metadata_props[LIMITS] = msgspec.json.encode(limits).decode()
    model.metadata_props[RECIPE] = in_words(recipe, largest_inputs)
    save_graph(model, path, external_data=external_data)


def refit_weights(transformer: Any, recipe: Recipe) -> Mapping[str, tuple[int, ...]]:
    """Shapes of everything in an exported decoder that a LoRA may change, by name.

    The weight of every Linear, `[out, in]` under its parameter's name, as in `linear_shapes`; in the place of the Linears of
    `time_embed_r` the two constants of `SECOND_TIME`, which whoever adapts them computes anew; and beside the weight of a Linear
    in FP8 its `weight_scale` `[out]`.
    """
    weights: dict[str, tuple[int, ...]] = {
        f"{name}.weight": shape
        for name, shape in linear_shapes(transformer).items()
        if not name.startswith(SECOND_EMBEDDER)
    }
    width = int(transformer.config.hidden_size)
    for name in quantized_linears(transformer, recipe):
        weights[f"{name}.weight_scale"] = weights[f"{name}.weight"][:1]
    return weights | dict(zip(SECOND_TIME, ((1, width), (1, 6, width)), strict=True))
