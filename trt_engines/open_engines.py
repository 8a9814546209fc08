# SPDX-License-Identifier: Apache-2.0
"""The engines of a loaded checkpoint: one TensorRT, one GPU, one stream and one block of scratch memory for all of them."""

from __future__ import annotations

import logging
import math
from functools import cached_property
from pathlib import Path

import torch

from engine_server.model.codec import Codec, OobleckCodec
from engine_server.model.layouts import Layout
from shared_protocol.errors import DemonError
from trt_engines.engine_codec import EngineCodec
from trt_engines.engine_decoder import EngineDecoder
from trt_engines.engine_decoders import EngineDecoders
from trt_engines.engine_file import EngineFile, Wanted, find_engine
from trt_engines.engine_kinds import Component
from trt_engines.engine_program import EngineProgram
from trt_engines.engine_stream import EngineStream, Scratch
from trt_engines.forward_plan import DecoderSizes
from trt_engines.load_engine import load_engine
from trt_engines.machine_here import machine_here
from trt_engines.metadata import Machine
from trt_engines.own_engines import OwnEngine, look_at_decoders, own_decoders
from trt_engines.profiles import Span
from trt_engines.tensorrt_library import load_tensorrt

log = logging.getLogger("demon.engine")


class OpenEngines:
    """checkpoint: as the user named it. Nothing is loaded before it is asked for. One thread at a time."""

    def __init__(self, checkpoint: str, checkpoint_hash: str, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._hash = checkpoint_hash
        self._device = device

    def decoder(self, path: str | Path) -> EngineDecoder:
        """The decoder of an engine's file, which is loaded twice if its weights can be written: see `refit_worker.py`.

        Raises DemonError: see `find_engine`, `machine_here` and `load_engine`.
        """
        return self._decoder(self._find(path, "decoder"))

    def look(self, layout: Layout) -> list[OwnEngine]:
        """What the user's engines' folder has. Raises DemonError: see `look_at_decoders`, `machine_here`."""
        return look_at_decoders(layout, self._checkpoint, self._hash, self._machine)

    def own_decoders(self, layout: Layout, *, frames: int) -> list[EngineFile]:
        """Those of the folder that take such windows. Raises DemonError: see `own_decoders`, `machine_here`."""
        return own_decoders(layout, self._checkpoint, self._hash, frames=frames, machine=self._machine)

    def own_decoder(self, layout: Layout, *, frames: int) -> EngineDecoders:
        """The decoder over those of the user's folder. Raises DemonError as `own_decoders` and `decoder`."""
        return EngineDecoders(self.own_decoders(layout, frames=frames), self._decoder)

    def codec(self, codec: Codec, encode: str | Path, decode: str | Path, *, span: int | None) -> EngineCodec:
        """A codec over the engines of two files, of which either both are loaded or none.

        span: frames to decode at once, if the engine takes so many, else the nearest that it takes; None for those that it is
        fastest at. Raises DemonError as `decoder`, `E_BACKEND` for a codec that has no engines, `E_FIELD` as `EngineCodec`.
        """
        if not isinstance(codec, OobleckCodec):
            raise DemonError(
                "E_BACKEND", "this checkpoint's codec is not ACE-Step's, and has no engines; use vae_backend 'eager'"
            )
        files = self._find(encode, "vae_encode"), self._find(decode, "vae_decode")
        sizes = files[1].span("latents", 2)
        fixed = sizes.best if span is None else min(max(span, sizes.least), sizes.most)
        samples = files[0].span("audio", 2)
        frames = Span(
            math.ceil(samples.least / codec.hop), math.ceil(samples.best / codec.hop), samples.most // codec.hop
        )
        encoder, decoder = map(self._program, files)
        return EngineCodec(codec, encoder, decoder, encoder_frames=frames, fixed_span=fixed)

    def _decoder(self, file: EngineFile) -> EngineDecoder:
        spare = self._program(file) if file.note.is_refittable else None
        return EngineDecoder(self._program(file), DecoderSizes.of(file), spare)

    def _find(self, path: str | Path, component: Component) -> EngineFile:
        return find_engine(path, Wanted(component, self._checkpoint, self._hash))

    def _program(self, file: EngineFile) -> EngineProgram:
        library = load_tensorrt()
        machine = self._machine
        with torch.cuda.device(self._device):
            engine = load_engine(file, library, machine)
        log.info("loaded %s by %s %s", file.path, library.name, library.version)
        return EngineProgram(engine, library, self._scratch, name=file.note.name)

    @cached_property
    def _machine(self) -> Machine:
        return machine_here(load_tensorrt(), self._device)

    @cached_property
    def _scratch(self) -> Scratch:
        return Scratch(self._device, EngineStream(self._device))
