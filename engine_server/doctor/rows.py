# SPDX-License-Identifier: Apache-2.0
"""Whether a decoder's rows are strangers to each other on this machine, in the padded batch that the ring runs."""

from __future__ import annotations

import torch

from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.ring import DEFAULT_BATCH

SEED, STRANGERS = 1, 2


@torch.no_grad()
def dependent_rows(
    decoder: Decoder, *, frames: int, tokens: int, width: int, channels: int, device: torch.device | str = "cpu"
) -> list[str]:
    """What a row's bits depend on but should not: `its place` and `its neighbours`; empty if all is well.

    One forward of random rows is repeated with the rows in every rotation, and with each row among strangers. Conditions
    differ in length and are padded to `tokens`, as they always are. Raises what the decoder raises.
    """
    own = _draw(SEED, frames, tokens, width, channels, device)
    others = _draw(STRANGERS, frames, tokens, width, channels, device)
    together = _run(decoder, *own)
    found = set()
    for shift in range(1, DEFAULT_BATCH):
        moved = _run(decoder, *(part.roll(shift, 0) for part in own))
        if not torch.equal(moved, together.roll(shift, 0)):
            found.add("its place")
    for row in range(DEFAULT_BATCH):
        mixed = [
            torch.cat([other[:row], mine[row : row + 1], other[row + 1 :]])
            for mine, other in zip(own, others, strict=True)
        ]
        if not torch.equal(_run(decoder, *mixed)[row], together[row]):
            found.add("its neighbours")
    return sorted(found, reverse=True)


def _run(
    decoder: Decoder, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    # Keys and values of a condition are computed alone, at batch 1, as the ring does.
    alone = [decoder.encode(states[row : row + 1], mask[row : row + 1]) for row in range(len(x))]
    condition = tuple(torch.cat(parts) for parts in zip(*alone, strict=True))
    return decoder(x, t, context, condition)


def _draw(
    seed: int, frames: int, tokens: int, width: int, channels: int, device: torch.device | str
) -> tuple[torch.Tensor, ...]:
    """x, t, context, states and mask of a batch."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (DEFAULT_BATCH, 1), generator=generator)
    drawn = (
        torch.randn(DEFAULT_BATCH, frames, channels, generator=generator),
        torch.rand(DEFAULT_BATCH, generator=generator),
        torch.randn(DEFAULT_BATCH, frames, 2 * channels, generator=generator),
        torch.randn(DEFAULT_BATCH, tokens, width, generator=generator),
        torch.arange(tokens).expand(DEFAULT_BATCH, -1) < lengths,
    )
    return tuple(part.to(device) for part in drawn)
