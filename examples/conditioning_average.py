# SPDX-License-Identifier: Apache-2.0
"""One prompt between two: a sound between piano and strings, the same throughout.

The encodings are averaged before the generation starts, so that it costs one forward per step, whatever the weight. Compare
`prompt_blend`, which runs both prompts and can move between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music, run

WEIGHT = 0.5


def make(session: Session) -> Latent:
    """Halfway from the first prompt to the second."""
    source = session.prepare_source(music("pair_electric_guitar_8s"))
    first, second = (session.encode_text(tags=tags) for tags in ("piano", "strings"))
    return session.generate(conditioning=first.averaged(second, WEIGHT), source=source, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    run(make, __file__, __doc__, arguments)


if __name__ == "__main__":
    main()
