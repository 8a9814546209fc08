# SPDX-License-Identifier: Apache-2.0
"""A target for the clean estimate: a piano piece melts into a given recording of the same notes by strings.

In every step the estimate of the finished piece is pulled towards the target, by more the higher the curve is and the later the
step. The last second is nearly the recording, though the prompt says piano throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

PULL = (0.0, 0.8)


def make(session: Session) -> Latent:
    """The prompt's piano at the start, the target at the end."""
    source = session.prepare_source(music("pair_piano_8s"))
    target = session.encode_audio(music("pair_strings_8s"))
    words = session.encode_text(tags="piano")
    return session.generate(conditioning=words, source=source, seed=7, x0_target=target, x0_target_curve=PULL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
