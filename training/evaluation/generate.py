# SPDX-License-Identifier: Apache-2.0
"""Many generations at once, through the session's stream: as many in flight as a forward has rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine_server.diffusion.intake import Admission
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.session import Session
from engine_server.types import Latent, PreparedSource


@dataclass(frozen=True, eq=False)
class Wish:
    """One generation. `options`: anything that a stream's `submit` takes."""

    source: PreparedSource
    prompt: str
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def generate(
    session: Session,
    wishes: Sequence[Wish],
    *,
    guidance: float = 1.0,
    on_done: Callable[[], object] = lambda: None,
) -> list[Latent]:
    """The wishes' latents, in their order. A guidance of 1 is none; a wish's `guidance_curve` wins over it."""
    if not wishes:
        return []
    prompts = {wish.prompt: session.encode_text(tags=wish.prompt) for wish in wishes}
    base = {} if guidance == 1.0 else {"guidance_curve": guidance}
    handle = session.stream(
        source=wishes[0].source,
        conditioning=prompts[wishes[0].prompt],
        pipeline_depth=DEFAULT_BATCH,
        admission=Admission.QUEUE,
        warm="burst",
    )
    order: dict[int, int] = {}
    done: dict[int, Latent] = {}
    try:
        for index, wish in enumerate(wishes):
            handle.source = wish.source
            handle.conditioning = prompts[wish.prompt]
            order[handle.submit(**{**base, "seed": wish.seed, **wish.options})] = index
        while len(done) < len(wishes):
            for latent in handle.advance():
                assert isinstance(latent.request_id, int)
                done[order[latent.request_id]] = latent
                on_done()
    finally:
        handle.close()
    return [done[index] for index in range(len(wishes))]
