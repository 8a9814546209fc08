# SPDX-License-Identifier: Apache-2.0
"""What travels along the wires of the node graph, beside the Session's own types. All immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.gain import GainEntry, channel_gain
from engine_server.model.lora_library import LoraState
from engine_server.session import Session
from engine_server.types import Latent, NoiseMask


@dataclass(frozen=True, eq=False)
class ModelHandle:
    """A session's model, and what this wire adds to it; a node that adds more makes a new handle."""

    session: Session
    gains: tuple[GainEntry, ...] = ()
    """Channel gains, the later ones in the place of the earlier ones."""
    loras: tuple[tuple[str, float], ...] = ()
    """LoRAs and their strengths on this wire; see `with_lora`."""

    def with_gain(self, first: int, last: int, scale: CurveLike) -> ModelHandle:
        """With a gain for the channels `first` to `last`. Raises ValueError as `GainEntry` does."""
        return replace(self, gains=(*self.gains, GainEntry(first, last, scale)))

    def with_lora(self, lora: str, strength: float) -> ModelHandle:
        """With a LoRA, named by its id or its file, at a strength.

        The session loads it at strength 0, so that no other wire hears it, and keeps it until it is closed. Raises DemonError,
        see `LoraLibrary`, and `SessionLoras.check_own_strengths`.
        """
        self.session.check_own_strengths()
        library = self.session.loras
        known = {entry.id: entry for entry in library.entries()}
        name = lora if lora in known else library.register(Path(lora))
        entry = next(entry for entry in library.entries() if entry.id == name)
        if entry.state is not LoraState.ENABLED:
            self.session.apply_lora(entry.path, 0.0)
        others = tuple(pair for pair in self.loras if pair[0] != name)
        return replace(self, loras=(*others, (name, strength)))

    def gain(self, frames: int) -> Tensor | None:
        """The gain of all entries for so many frames, `[1, 1 or frames, 64]`, None where it is 1; curves are stretched."""
        return channel_gain([_stretched(entry, frames) for entry in self.gains])

    def strengths(self) -> Tensor | None:
        """Strengths `[A]` of the session's LoRAs on this wire, None if it has none. Raises DemonError for one taken out since."""
        return self.session.row_strengths(dict(self.loras) or None)


@dataclass(frozen=True, eq=False)
class VaeHandle:
    """A session's codec."""

    session: Session


@dataclass(frozen=True, eq=False)
class ClipHandle:
    """A session's text encoder."""

    session: Session


@dataclass(frozen=True, eq=False)
class TextEmbed:
    """Words, checked and encoded: the session remembers their encoding by content until a condition is made of it."""

    session: Session
    words: Mapping[str, Any]
    """The arguments of `Session.encode_text`."""


@dataclass(frozen=True)
class Config:
    """How a one-shot generation runs."""

    steps: int
    shift: float
    seed: int
    denoise: CurveLike


@dataclass(frozen=True, eq=False)
class Solver:
    """`ode` or `sde`, and the curve that belongs to it: noise after each step, or freedom against the source."""

    method: str
    noise_curve: CurveLike | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of `Modulation` that it sets."""
        name = "sde_denoise_curve" if self.method == "sde" else "ode_noise_curve"
        return {} if self.noise_curve is None else {name: self.noise_curve}


@dataclass(frozen=True, eq=False)
class MaskedLatent(Latent):
    """Latents of which a part is to be kept."""

    noise_mask: NoiseMask | None = None


def _stretched(entry: GainEntry, frames: int) -> GainEntry:
    return replace(entry, scale=canonical_curve(entry.scale, frames, name="scale", resample=True))
