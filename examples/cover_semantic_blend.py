# SPDX-License-Identifier: Apache-2.0
"""The structure of two pieces: a cover that begins with the notes of one and ends with those of another.

The decoder sees hints, what is left of a piece without its sound. Those of two pieces are blended, and one generation is made of
them, with no source to start from. Checkpoints with a 5 Hz tokenizer blend melody and rhythm; the embedded model has none: its
hints are the pieces' latents themselves, so that in the middle both are heard.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

FADE = (0.0, 1.0)
"""Share of the second piece."""


def make(session: Session) -> Latent:
    """Strings, from one piece into the other."""
    ours, theirs = (session.prepare_source(music(name)) for name in ("pair_piano_8s", "van_theme_12s"))
    hints = session.blend_hints(ours.context_latent, theirs.context_latent, FADE)
    return session.generate(conditioning=session.encode_text(tags="strings"), context_latent=hints, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
