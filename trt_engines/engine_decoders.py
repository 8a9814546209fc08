# SPDX-License-Identifier: Apache-2.0
"""The decoder over several engines of one recipe, which differ in how long a window may be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine_server.diffusion.decoder import Encoded
from engine_server.model.backends import NO_LORAS
from trt_engines.engine_decoder import EngineDecoder
from trt_engines.engine_file import EngineFile
from trt_engines.forward_plan import DecoderSizes

log = logging.getLogger("demon.engine")


class EngineDecoders:
    """A `Decoder`: a window runs on the shortest engine that takes it, so that its length alone decides which computes it.

    The first is loaded at once; a longer one with the first window that needs it, which waits, and then stays. One thread at a
    time; inference only.
    """

    def __init__(self, files: Sequence[EngineFile], load: Callable[[EngineFile], EngineDecoder]) -> None:
        """files: at least one, the shortest first. Raises DemonError: what `load` raises, and as `DecoderSizes.of`."""
        self._load = load
        self._files = list(files)
        self._sizes = [DecoderSizes.of(file) for file in files]
        self._loaded = {0: load(files[0])}

    @property
    def precision(self) -> str:
        """The name of the engines' recipe."""
        return self._loaded[0].precision

    @property
    def lora_refusal(self) -> str:
        """Why they hear no LoRA: their weights cannot be written."""
        return self._loaded[0].lora_refusal or NO_LORAS

    def adapt(self, transformer: Any, device: torch.device) -> None:
        """Nothing: see `EngineDecoder.adapt`."""

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """See `EngineDecoder.encode`: the same for all of them."""
        return self._loaded[0].encode(states, mask, adapters)

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `EngineDecoder`; raises also what loading a longer engine raises. The longest tells of windows that none takes."""
        frames = x.shape[1]
        number = next((k for k, sizes in enumerate(self._sizes) if frames <= sizes.frames.most), len(self._files) - 1)
        if number not in self._loaded:
            self._sizes[number].plan(1, frames, 1)  # which raises for a window that is not worth loading it
            log.warning("loading %s while playing waits: no shorter engine takes this window", self._files[number].path)
            self._loaded[number] = self._load(self._files[number])
        return self._loaded[number](x, t, context, condition, adapters)
