# SPDX-License-Identifier: Apache-2.0
"""Which machinery runs the decoder, by name; what cannot run as asked says so, and nothing else runs instead.

`auto` is no machinery: `auto_backend` decides which of them it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine_server.diffusion.decoder import Decoder
from engine_server.model.compile_cache import CompileCache
from engine_server.model.compiled import CompiledVelocity
from engine_server.model.dit import DitForward
from engine_server.model.dit_block import Adapters
from engine_server.model.fp8_linear import fp8_blocks
from engine_server.model.graphs import CudaRecorder, GraphedVelocity
from engine_server.model.int8 import quantize_blocks
from engine_server.model.static_decoder import StaticDecoder
from shared_protocol.errors import DemonError

AUTO = "auto"
EAGER, COMPILE, TENSORRT = RUNNING = ("eager", "compile", "tensorrt")
BACKENDS = (AUTO, *RUNNING)
QUANTIZATIONS = ("int8", "fp8")
DEAF_TO_LORAS = (TENSORRT,)
"""Those whose rows have no strengths of LoRAs of their own, as tracks and requests do."""
NO_LORAS = "this TensorRT engine has its weights built in, and hears no LoRA; use the eager or the compile backend"
ONE_MIX = (
    "a TensorRT engine has one set of weights for all that it computes, so no request, track or node has strengths of LoRAs of "
    "its own; set those of the session (Session.set_lora_strength), or use the eager or the compile backend"
)
QUANTIZED_ENGINE = (
    "an engine has the types that it was built with; name no quantization (fp8 is one of `demon engines build`)"
)
INT8_COMPILED = "int8 Linears cannot be compiled; use the eager backend with int8, or fp8"


@dataclass(frozen=True)
class Choice:
    """A backend, and in words why it was chosen."""

    backend: str
    reason: str


def make_decoder(
    transformer: Any,
    *,
    backend: str,
    adapters: Adapters | None = None,
    quantization: str | None = None,
    engine: Callable[[], Decoder] | None = None,
) -> Decoder:
    """The decoder over diffusers' transformer, run by a backend of `RUNNING`, optionally with int8 or FP8 Linears.

    A compiled decoder is a `StaticDecoder`: warm it up with the forms that it will meet, or playing waits for each of them, for
    tens of seconds. Its last bits may depend on a row's place in the batch, because compiled loops are split between threads
    without regard to rows.

    engine: what loads the decoder's TensorRT engine, for that backend (`OpenEngines.decoder`); it computes with weights of its
    own and hears no LoRA.

    Raises ValueError for unknown names, DemonError `E_BACKEND` for what this version, this machine or this combination cannot
    run, and what `engine` raises.
    """
    if backend not in RUNNING:
        raise ValueError(f"backend: {backend!r} is not one of {', '.join(RUNNING)}")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: {quantization!r} is not one of {', '.join(QUANTIZATIONS)}, or None")
    if backend == TENSORRT:
        return _engine(engine, quantization)
    if quantization == "int8":
        if backend == COMPILE:
            raise DemonError("E_BACKEND", INT8_COMPILED)
        transformer = quantize_blocks(transformer)
    if quantization == "fp8":
        transformer = fp8_blocks(transformer)
    if backend == COMPILE:
        device = transformer.proj_in_conv.weight.device
        run, cache = CompiledVelocity(), CompileCache(device)
        if device.type != "cuda":
            return StaticDecoder(transformer, adapters, run=run, cache=cache)
        return StaticDecoder(transformer, adapters, run=GraphedVelocity(run, CudaRecorder(device)), cache=cache)
    return DitForward(transformer, adapters)


def _engine(engine: Callable[[], Decoder] | None, quantization: str | None) -> Decoder:
    if quantization is not None:
        raise DemonError("E_BACKEND", QUANTIZED_ENGINE)
    if engine is None:
        raise DemonError(
            "E_BACKEND",
            "the tensorrt backend runs an engine, and none is named; build one (demon engines build) and name it, as "
            "Session(decoder_backend='tensorrt', trt_engines={'decoder': PATH}), or use eager or compile",
        )
    return engine()
