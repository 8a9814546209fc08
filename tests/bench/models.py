# SPDX-License-Identifier: Apache-2.0
"""The models that are measured, and inputs for them. Values are random: times do not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers.models import AceStepTransformer1DModel
from torch import Tensor

from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.rows import RingShape
from engine_server.model.backends import make_decoder
from engine_server.model.checkpoint_files import ASSETS

CHANNELS = 64
FRAMES_PER_SECOND = 25
EMBEDDED, LARGER = "embedded", "50 M"
CONDITION_TOKENS = {EMBEDDED: 96, LARGER: 256}


class Inputs(NamedTuple):
    """x `[B, T, C]`, t `[B]`, context `[B, T, 2C]`, states `[B, L, E]`, and the mask of no padding `[B, L]`."""

    x: Tensor
    t: Tensor
    context: Tensor
    states: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """A transformer in float32 on the CPU, with the number of condition tokens that it is measured with."""

    name: str
    transformer: Any
    tokens: int

    @cached_property
    def decoder(self) -> Decoder:
        """Our forward, eager."""
        return make_decoder(self.transformer, backend="eager")

    @property
    def width(self) -> int:
        """E."""
        return int(self.transformer.condition_embedder.in_features)

    @property
    def parameters(self) -> int:
        """Their count."""
        return sum(weight.numel() for weight in self.transformer.parameters())

    def __str__(self) -> str:
        return f"{self.name} ({self.parameters / 1e6:.1f} M parameters, {self.tokens} condition tokens)"

    def inputs(self, rows: int, frames: int) -> Inputs:
        """Of a forward of so many rows and frames."""
        generator = torch.Generator().manual_seed(1)
        return Inputs(
            x=torch.randn(rows, frames, CHANNELS, generator=generator),
            t=torch.rand(rows, generator=generator),
            context=torch.randn(rows, frames, 2 * CHANNELS, generator=generator),
            states=torch.randn(rows, self.tokens, self.width, generator=generator),
            mask=torch.ones(rows, self.tokens, dtype=torch.bool),
        )

    def shape(self, depth: int, frames: int) -> RingShape:
        """Of a ring."""
        return RingShape(depth, frames, CHANNELS, self.tokens, self.width)


def load(name: str) -> Subject:
    """The embedded checkpoint's transformer, or one of about 50 M random weights."""
    if name == EMBEDDED:
        transformer = AceStepTransformer1DModel.from_pretrained(ASSETS / "embedded" / "transformer")
    else:
        torch.manual_seed(0)
        transformer = AceStepTransformer1DModel(
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
        )
    return Subject(name, transformer.eval().requires_grad_(False), CONDITION_TOKENS[name])


@dataclass(frozen=True)
class Effort:
    """How much to measure: all of it, or just enough to see that everything runs."""

    quick: bool

    @property
    def models(self) -> Sequence[str]:
        """Names for `load`."""
        return (EMBEDDED,) if self.quick else (EMBEDDED, LARGER)

    @property
    def frames(self) -> int:
        """T where it is not varied: 10 s."""
        return 50 if self.quick else 250

    @property
    def durations_s(self) -> Sequence[int]:
        """Where it is."""
        return (2, 6) if self.quick else (10, 30, 60, 120, 240)

    @property
    def depths(self) -> Sequence[int]:
        """Slots of a ring."""
        return (1, 4) if self.quick else (1, 4, 8)

    def rounds(self, wanted: int) -> int:
        """Repetitions."""
        return 2 if self.quick else wanted
