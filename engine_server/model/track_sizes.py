# SPDX-License-Identifier: Apache-2.0
"""The forward that every track meets which leaves the windows as the checkpoint has them."""

from __future__ import annotations

from dataclasses import dataclass

from engine_server.diffusion.rows import RingShape
from engine_server.model.adapter_stack import COLUMNS_STEP
from engine_server.model.checkpoint_files import Settings
from engine_server.model.forms import Form, forms_of_ring


@dataclass(frozen=True)
class TrackSizes:
    """Latent frames of a window, condition tokens L, their width E, and latent channels C."""

    frames: int
    tokens: int
    width: int
    channels: int

    @classmethod
    def of(cls, settings: Settings, *, width: int, channels: int) -> TrackSizes:
        """Those of a checkpoint's settings."""
        return cls(settings.geometry.window, settings.condition_tokens, width, channels)

    @property
    def forms(self) -> list[Form]:
        """What a compiled decoder compiles for them: without adapters, and with a few."""
        shape = RingShape(depth=1, frames=self.frames, channels=self.channels, tokens=self.tokens, width=self.width)
        return forms_of_ring(shape, columns=(0, COLUMNS_STEP))
