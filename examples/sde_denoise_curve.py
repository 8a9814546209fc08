# SPDX-License-Identifier: Apache-2.0
"""Freedom that grows: the piece begins close to the recording and ends as the prompt has it.

After every step the clean estimate is pulled towards the source, by more where the curve is lower, and new noise is put on top
(the SDE solver). What is heard is the source at 0, and the prompt's sound at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

FREEDOM = (0.3, 1.0, 1.0)
"""From 0.3 to 1 up to the middle."""


def make(session: Session) -> Latent:
    """A piano that becomes a brass section."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="brass")
    return session.generate(conditioning=words, source=source, seed=7, sde_denoise_curve=FREEDOM)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
