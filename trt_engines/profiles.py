# SPDX-License-Identifier: Apache-2.0
"""The sizes that an engine is built for: for each dynamic axis of each input the least, the best and the greatest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared_protocol.errors import DemonError


@dataclass(frozen=True)
class Span:
    """Sizes of one axis; the engine is tuned for `best`. Raises DemonError `E_FIELD` unless 1 <= least <= best <= most."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise DemonError("E_FIELD", f"{self} is not a span of sizes: 1 <= least <= best <= most is expected")

    def __str__(self) -> str:
        return f"{self.least} / {self.best} / {self.most}"

    def __mul__(self, unit: int) -> Span:
        return Span(self.least * unit, self.best * unit, self.most * unit)


Axes = Mapping[str, Mapping[int, Span]]
"""By input and by axis."""


def decoder_axes(rows: Span, frames: Span, tokens: Span, *, patch: int = 2) -> Axes:
    """For `export_decoder`: rows B, frames T and condition tokens L.

    Raises DemonError `E_FIELD` for numbers of frames that are no multiples of the patch: windows are padded before they come to
    an engine.
    """
    if odd := [size for size in (frames.least, frames.best, frames.most) if size % patch]:
        raise DemonError("E_FIELD", f"frames is {frames}; {odd[0]} is not a multiple of {patch}")
    return {
        "hidden_states": {0: rows, 1: frames},
        "timestep": {0: rows},
        "encoder_hidden_states": {0: rows, 1: tokens},
        "encoder_mask": {0: rows, 1: tokens},
        "context_latents": {0: rows, 1: frames},
    }


def vae_encoder_axes(rows: Span, frames: Span, *, hop: int) -> Axes:
    """For `export_vae_encoder`: rows B and latent frames, of `hop` samples each."""
    return {"audio": {0: rows, 2: frames * hop}}


def vae_decoder_axes(rows: Span, frames: Span) -> Axes:
    """For `export_vae_decoder`: rows B and latent frames."""
    return {"latents": {0: rows, 2: frames}}
