# SPDX-License-Identifier: Apache-2.0
"""What a ring needs of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

Encoded = tuple[Tensor, ...]
"""What a forward needs of N conditions: tensors with N rows first. Only the decoder that made them knows what they hold."""


class Decoder(Protocol):
    """The model behind a ring. The result of a row must depend on that row only; called by one thread at a time."""

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """Whatever of a forward depends on conditions alone (for a DiT: cross-attention keys and values).

        states: `[N, L, E]` float32; mask: `[N, L]` bool, True for real tokens; adapters: `[N, A]` strengths or None.
        """
        ...

    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """Velocity `[B, T, C]` float32 of noisy latents x `[B, T, C]` at levels t `[B]`.

        context: `[B, T, 2C]`; condition: B rows of what `encode` gave; adapters: `[B, A]` strengths or None.
        """
        ...
