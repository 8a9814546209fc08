# SPDX-License-Identifier: Apache-2.0
"""Inpainting: two seconds of the recording are made anew, the rest is kept.

A mask of 1 generates a frame, 0 preserves it exactly. The new part begins and ends in what surrounds it, because the decoder
sees both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine_server.session import Session
from engine_server.types import Latent, NoiseMask
from examples.common import music, run

FIRST, STOP = 38, 88
"""Frames, 25 in a second, that are made anew."""


def make(session: Session) -> Latent:
    """The recording, its seconds 1.5 to 3.5 played by a choir."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="choir")
    mask = torch.zeros(len(source))
    mask[FIRST:STOP] = 1.0
    return session.generate(conditioning=words, source=source, seed=7, noise_mask=NoiseMask(mask, source.latent))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
