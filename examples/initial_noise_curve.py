# SPDX-License-Identifier: Apache-2.0
"""Less noise to start from: the beginning keeps more of the recording than the end.

Every frame starts from a mixture of noise and source, by the curve, while the schedule stays as it is. The model
takes what is left of the source for part of the noise that it has to shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

NOISE = (0.5, 0.5, 1.0, 1.0, 1.0)
"""Share of noise: 0.5 for the first quarter, 1 from the middle on."""
DENOISE = 0.65


def make(session: Session) -> Latent:
    """A choir, closer to the recording at the start."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="choir")
    return session.generate(conditioning=words, source=source, seed=7, denoise=DENOISE, initial_noise_curve=NOISE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
