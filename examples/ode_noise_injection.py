# SPDX-License-Identifier: Apache-2.0
"""Noise on the way: a sound that is disturbed and comes to rest again, twice.

After every step new noise is added, by the curve and the noise level, and the following steps shape it into music again. Where
the curve is 0 the piece is the one without noise; where it is high, details are others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

TREMOR = 0.25 - 0.25 * torch.cos(torch.linspace(0.0, 4 * torch.pi, 125))
"""0 to 0.5 and back, twice."""


def make(session: Session) -> Latent:
    """A marimba under a slow tremor."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="marimba")
    return session.generate(conditioning=words, source=source, seed=7, ode_noise_curve=TREMOR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
