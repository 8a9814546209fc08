# SPDX-License-Identifier: Apache-2.0
"""How far a recipe, or a quantization of eager, is from eager in float32: velocities, and what they come to over a generation.

Computed by torch on the CPU, without TensorRT.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine_server.diffusion.decoder import Decoder, Encoded
from engine_server.model.backends import make_decoder
from engine_server.model.recipes import Recipe
from engine_server.session import Session
from engine_server.types import Latent, PreparedSource
from trt_engines.calibrate import DEPTH, PROMPTS, make
from trt_engines.calibration import NOTHING
from trt_engines.decoder_module import ExportableDecoder

QUANTIZED = (("fp8", torch.bfloat16), ("fp8", torch.float32), ("int8", torch.float32))
"""Quantizations of a Session, with types that the rest may have: as on a GPU, and as on a CPU."""
Call = tuple[Tensor, ...]
"""x, t, context, states and mask of a forward."""


@dataclass(frozen=True)
class DecoderError:
    """Relative errors: root mean square of the difference over that of what should be."""

    velocity: float
    """Over all forwards of a generation, all on the inputs that eager met."""
    worst_velocity: float
    """Of the worst of its noise levels."""
    latents: float
    """Of the results of generations that the decoder made alone."""


@dataclass(frozen=True)
class RecipeError(DecoderError):
    """Of an engine's decoder."""

    weight_bytes: int


class RecipeDecoder:
    """The decoder of an engine, as torch computes it, in the place of eager's. LoRAs are not heard."""

    def __init__(
        self, transformer: Any, recipe: Recipe, largest_inputs: Mapping[str, float], *, max_frames: int
    ) -> None:
        """See `ExportableDecoder`. max_frames: the greatest T."""
        self._patch = int(transformer.patch_size)
        padded = max_frames + -max_frames % self._patch
        self._run = ExportableDecoder(
            transformer, recipe=recipe, max_frames=padded, largest_inputs=largest_inputs
        ).eval()
        self.weight_bytes = sum(part.nbytes for part in self._run.parameters())

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """What the graph takes: nothing is worked out before."""
        return states, mask

    @torch.no_grad()
    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`."""
        padding = (0, 0, 0, -x.shape[1] % self._patch)
        out: Tensor = self._run(F.pad(x, padding), t, *condition, F.pad(context, padding))
        return out[:, : x.shape[1]]


class Reference:
    """Eager's generations of pieces, one for each prompt from pure noise, with every forward on the way."""

    def __init__(self, session: Session, pieces: Sequence[PreparedSource]) -> None:
        """session: in float32 on the CPU, with its eager decoder, which `error` lays aside for a while."""
        self._session, self._pieces = session, pieces
        self.generations = len(pieces) * len(PROMPTS)
        recorder = _Recorder(session.checkpoint.decoder)
        self.latents = self._made_by(recorder)
        self.calls, self.velocities = recorder.calls, recorder.velocities

    def error(self, recipe: Recipe, largest_inputs: Mapping[str, float] = NOTHING) -> RecipeError:
        """How far a recipe is from it; largest_inputs: see `ExportableDecoder`."""
        frames = max(x.shape[1] for x, *_ in self.calls)
        decoder = RecipeDecoder(self._session.checkpoint.transformer, recipe, largest_inputs, max_frames=frames)
        return RecipeError(**vars(self._error_of(decoder)), weight_bytes=decoder.weight_bytes)

    def error_quantized(self, quantization: str, dtype: torch.dtype) -> DecoderError:
        """How far eager with a quantization is from it, with all else in a type; both as `load_checkpoint` takes them.

        Raises DemonError `E_BACKEND` as `make_decoder`.
        """
        transformer = nn.Module.to(copy.deepcopy(self._session.checkpoint.transformer), dtype)
        return self._error_of(make_decoder(transformer, backend="eager", quantization=quantization))

    @torch.no_grad()
    def _error_of(self, decoder: Decoder) -> DecoderError:
        velocities = [
            decoder(x, t, context, decoder.encode(states, mask)).double() for x, t, context, states, mask in self.calls
        ]
        pairs = list(zip(velocities, self.velocities, strict=True))
        made = self._made_by(decoder)
        return DecoderError(
            velocity=_relative(_joined(velocities), _joined(self.velocities)),
            worst_velocity=max(_relative(got, wanted) for got, wanted in pairs),
            latents=_relative(*(_joined([one.frames for one in part]) for part in (made, self.latents))),
        )

    def _made_by(self, decoder: Decoder) -> Sequence[Latent]:
        checkpoint = self._session.checkpoint
        self._session.checkpoint = replace(checkpoint, decoder=decoder)
        try:
            wanted = [(prompt, 1.0) for prompt in PROMPTS]
            return [
                latent
                for piece in self._pieces
                for latent in make(self._session, piece, wanted, depth=DEPTH, warm="burst")
            ]
        finally:
            self._session.checkpoint = checkpoint


class _Recorder:
    """A decoder that remembers what it is asked, and what it answers."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.calls: list[Call] = []
        self.velocities: list[Tensor] = []

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        return (states, mask, *self._decoder.encode(states, mask, adapters))

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        states, mask, *encoded = condition
        out = self._decoder(x, t, context, tuple(encoded), adapters)
        self.calls.append(tuple(part.clone() for part in (x, t, context, states, mask)))
        self.velocities.append(out.double())
        return out


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())
