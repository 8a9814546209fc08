# SPDX-License-Identifier: Apache-2.0
"""A reference as target: the piano piece with the colours of an orchestral recording laid over it.

The target need not have the source's notes. It acts in the second half of the schedule only, when notes are settled and details
are not, and everywhere alike: both pieces are heard, the reference through the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

STRENGTH = 0.3


def make(session: Session) -> Latent:
    """The piece, its later steps pulled towards the reference."""
    source = session.prepare_source(music("pair_piano_8s"))
    reference = session.encode_audio(music("van_theme_12s"))
    words = session.encode_text(tags="tremolo strings")
    return session.generate(conditioning=words, source=source, seed=7, x0_target=reference, x0_target_strength=STRENGTH)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
