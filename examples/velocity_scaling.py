# SPDX-License-Identifier: Apache-2.0
"""Steps that are too long: the last third of the piece is driven harder and harder.

The curve scales the velocity that the model asks for. At 1 the piece is as it should be; above it every step overshoots, and
what is characteristic of the prompt is exaggerated until it breaks up. Below 1, noise would be left over.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

DRIVE = (1.0, 1.0, 1.0, 1.25)
"""1 for two thirds, then rising."""


def make(session: Session) -> Latent:
    """An electric guitar, overdriven towards the end."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="electric guitar")
    return session.generate(conditioning=words, source=source, seed=7, velocity_scale=DRIVE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
