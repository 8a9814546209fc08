# SPDX-License-Identifier: Apache-2.0
"""ACE-Step's VAE (diffusers' `AutoencoderOobleck`, of any size) to ONNX, a file for each direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine_server.model.codec import OobleckCodec
from engine_server.model.recipes import RECIPES, in_words
from shared_protocol.errors import DemonError
from trt_engines.calibration import NOTHING
from trt_engines.engine_kinds import Precision
from trt_engines.onnx_files import RECIPE
from trt_engines.onnx_graph import OPSETS, export_graph, save_graph
from trt_engines.oobleck_modules import OobleckDecoder, OobleckEncoder

PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.float16: "fp16"}
"""TensorRT refuses deconvolutions in bfloat16."""
ENCODER_INPUTS, ENCODER_OUTPUTS = ("audio",), ("mean", "std")
DECODER_INPUTS, DECODER_OUTPUTS = ("latents",), ("audio",)
EXAMPLE_ROWS, EXAMPLE_FRAMES = 2, 5
"""What is traced; see `export_decoder`."""


def export_vae_encoder(vae: Any, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the encoder to `path`: audio `[B, 2, N * hop]` to `mean` and `std` `[B, C, N]`, float32 all.

    Dynamic are B and N. dtype: of the arithmetic, float32 or float16. The VAE is not changed. Raises DemonError: `E_DTYPE`,
    `E_CHECKPOINT_LAYOUT` for a VAE that is no codec of ours, `E_OUTPUT`.
    """
    hop = _check(vae, dtype)
    example = torch.zeros(EXAMPLE_ROWS, int(vae.config.audio_channels), EXAMPLE_FRAMES * hop)
    _export(OobleckEncoder(vae, dtype), example, hop, path, inputs=ENCODER_INPUTS, outputs=ENCODER_OUTPUTS, dtype=dtype)


def export_vae_decoder(vae: Any, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the decoder to `path`: latents `[B, C, N]` to audio `[B, 2, N * hop]`, float32 both. Otherwise as the encoder."""
    _check(vae, dtype)
    example = torch.zeros(EXAMPLE_ROWS, int(vae.config.decoder_input_channels), EXAMPLE_FRAMES)
    _export(OobleckDecoder(vae, dtype), example, 1, path, inputs=DECODER_INPUTS, outputs=DECODER_OUTPUTS, dtype=dtype)


def _check(vae: Any, dtype: torch.dtype) -> int:
    if dtype not in PRECISIONS:
        raise DemonError("E_DTYPE", f"dtype is {dtype}; a VAE is exported in {' or '.join(map(str, PRECISIONS))}")
    return OobleckCodec(vae).hop


def _export(
    module: nn.Module,
    example: torch.Tensor,
    unit: int,
    path: Path,
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    dtype: torch.dtype,
) -> None:
    dynamic = {0: torch.export.Dim("rows"), 2: unit * torch.export.Dim("frames")}
    model = export_graph(module.eval(), [example], [dynamic], inputs=inputs, outputs=outputs, opset=OPSETS[dtype])
    model.metadata_props[RECIPE] = in_words(RECIPES[PRECISIONS[dtype]], NOTHING)
    save_graph(model, path)
