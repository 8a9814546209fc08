# SPDX-License-Identifier: Apache-2.0
"""A cover: a piano piece, played by strings.

The notes stay, because the decoder sees the source's structure; the sound follows the words. `denoise` below 1 starts nearer to
the source: at 0 one would hear the piano as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run


def make(session: Session) -> Latent:
    """The piano piece with the sound of strings."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="strings")
    return session.generate(conditioning=words, source=source, denoise=0.9, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
