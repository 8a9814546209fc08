# SPDX-License-Identifier: Apache-2.0
"""Guidance that grows: the prompt is taken at its word more and more.

Each step moves away from what the model would make without a prompt, by the curve; 1 is no guidance, and costs nothing in
the result. The second forward per step is of the model's own unconditional prompt, as long as no other `negative` is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

GUIDANCE = (1.0, 3.0)


def make(session: Session) -> Latent:
    """An organ, emphasised towards the end."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="organ")
    return session.generate(conditioning=words, source=source, seed=7, guidance_curve=GUIDANCE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
