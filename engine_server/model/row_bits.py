# SPDX-License-Identifier: Apache-2.0
"""Whether a decoder's rows are strangers to each other on this machine, in the padded batch that the ring runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.model.track_sizes import TrackSizes

SEED, STRANGERS = 1, 2


@dataclass(frozen=True)
class Rows:
    """A ring's batch of random rows. Conditions differ in length and are padded to one, as they always are."""

    x: Tensor
    t: Tensor
    context: Tensor
    states: Tensor
    mask: Tensor

    @classmethod
    def draw(cls, sizes: TrackSizes, device: torch.device | str, *, seed: int = SEED) -> Rows:
        """The same ones every time, on every device."""
        generator = torch.Generator().manual_seed(seed)
        batch, frames, tokens, channels = DEFAULT_BATCH, sizes.frames, sizes.tokens, sizes.channels
        lengths = torch.randint(1, tokens + 1, (batch, 1), generator=generator)
        drawn = (
            torch.randn(batch, frames, channels, generator=generator),
            torch.rand(batch, generator=generator),
            torch.randn(batch, frames, 2 * channels, generator=generator),
            torch.randn(batch, tokens, sizes.width, generator=generator),
            torch.arange(tokens).expand(batch, -1) < lengths,
        )
        return cls(*(part.to(device) for part in drawn))

    def rolled(self, shift: int) -> Rows:
        """Each row some places on."""
        return Rows(*(part.roll(shift, 0) for part in self._parts))

    def with_row_of(self, other: Rows, row: int) -> Rows:
        """These, but for one of another batch."""
        pairs = zip(self._parts, other._parts, strict=True)
        return Rows(*(torch.cat([mine[:row], its[row : row + 1], mine[row + 1 :]]) for mine, its in pairs))

    def encoded(self, decoder: Decoder) -> tuple[Tensor, ...]:
        """Keys and values of the conditions, each computed alone, at batch 1, as the ring does."""
        alone = [decoder.encode(self.states[row : row + 1], self.mask[row : row + 1]) for row in range(len(self.x))]
        return tuple(torch.cat(parts) for parts in zip(*alone, strict=True))

    def run(self, decoder: Decoder) -> Tensor:
        """Their velocities."""
        return decoder(self.x, self.t, self.context, self.encoded(decoder))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.x, self.t, self.context, self.states, self.mask


@torch.no_grad()
def dependent_rows(decoder: Decoder, sizes: TrackSizes, device: torch.device | str = "cpu") -> list[str]:
    """What a row's bits depend on but should not: `its place` and `its neighbours`; empty if all is well.

    One forward of random rows is repeated with the rows in every rotation, and with each row among strangers. Raises what the
    decoder raises.
    """
    own, others = Rows.draw(sizes, device), Rows.draw(sizes, device, seed=STRANGERS)
    together = own.run(decoder)
    found = set()
    for shift in range(1, DEFAULT_BATCH):
        if not torch.equal(own.rolled(shift).run(decoder), together.roll(shift, 0)):
            found.add("its place")
    for row in range(DEFAULT_BATCH):
        if not torch.equal(others.with_row_of(own, row).run(decoder)[row], together[row]):
            found.add("its neighbours")
    return sorted(found, reverse=True)
