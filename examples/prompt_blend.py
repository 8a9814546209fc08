# SPDX-License-Identifier: Apache-2.0
"""Two prompts at once: a piano piece turns from a music box into a church organ.

Each prompt has a forward of its own, and their velocities are mixed frame by frame, so that each sounds as it would alone
where it has all the weight. A curve of two values is a ramp over the whole piece.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

FADE = (0.0, 1.0)
"""Share of the second prompt."""


def make(session: Session) -> Latent:
    """The first prompt at the start, the second at the end."""
    source = session.prepare_source(music("pair_piano_8s"))
    first, second = (session.encode_text(tags=tags) for tags in ("music box", "church organ"))
    return session.generate(conditioning=first.combined(second, weight=FADE), source=source, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
