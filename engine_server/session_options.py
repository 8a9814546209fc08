# SPDX-License-Identifier: Apache-2.0
"""What a session is asked to run on, checked before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine_server.model.backends import BACKENDS, INT8_COMPILED, QUANTIZATIONS, QUANTIZED_ENGINE
from shared_protocol.errors import DemonError
from shared_protocol.timebase import FRAMES_PER_SECOND

ENGINES: Mapping[str, tuple[str, ...]] = {
    "decoder_backend": ("decoder",),
    "vae_backend": ("vae_encode", "vae_decode"),
}
"""TensorRT engines that each argument's backend runs, by their key in `trt_engines`."""


@dataclass(frozen=True)
class SessionOptions:
    """Raises ValueError naming the argument, and DemonError `E_BACKEND` for what this version cannot run."""

    decoder_backend: str
    vae_backend: str
    vae_window: float
    trt_engines: Mapping[str, str]
    quantization: str | None

    def __post_init__(self) -> None:
        for argument, engines in ENGINES.items():
            backend = getattr(self, argument)
            if backend not in BACKENDS:
                raise ValueError(f"{argument} is {backend!r}; one of {', '.join(BACKENDS)} is expected")
            given = [name for name in engines if name in self.trt_engines]
            # Of the decoder's those that were built of the checkpoint are found without being named.
            if backend == "tensorrt" and len(given) < len(engines) and argument != "decoder_backend":
                missing = ", ".join(f"trt_engines[{name!r}]" for name in engines if name not in given)
                raise ValueError(f"{argument} is 'tensorrt' without {missing}")
            if backend != "tensorrt" and given:
                raise ValueError(f"trt_engines[{given[0]!r}] is given, but {argument} is {backend!r}")
        if unknown := sorted(set(self.trt_engines) - {name for names in ENGINES.values() for name in names}):
            raise ValueError(f"trt_engines holds {unknown[0]!r}, which is no engine of a session")
        shortest = 1 / FRAMES_PER_SECOND
        if not (self.vae_window == 0 or (math.isfinite(self.vae_window) and self.vae_window >= shortest)):
            raise ValueError(f"vae_window is {self.vae_window}; {shortest} s or more, or 0 for all, is expected")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization is {self.quantization!r}; {', '.join(QUANTIZATIONS)} or None is expected")
        if self.quantization is not None and self.decoder_backend == "tensorrt":
            raise DemonError("E_BACKEND", QUANTIZED_ENGINE)
        if self.quantization == "int8" and self.decoder_backend == "compile":
            raise DemonError("E_BACKEND", INT8_COMPILED)
