# SPDX-License-Identifier: Apache-2.0
"""A LoRA on top of the model: a cover of a piano piece as from a worn record, or played by a sound chip, or sung.

Three LoRAs come with the embedded model: lofi, choir and chip. `--lora` takes one of these ids, or a safetensors file of
your own. The decoder's weights are never changed; taking the LoRA out restores every bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import argument_parser, music, write_piece


def make(session: Session, lora: str = "lofi", strength: float = 1.0) -> Latent:
    """The strings cover under a LoRA."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="strings")
    session.apply_lora(lora, scale=strength)
    return session.generate(conditioning=words, source=source, denoise=0.9, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argument_parser(__file__, __doc__)
    parser.add_argument("--lora", default="lofi", help="lofi, choir, chip or a safetensors file for the embedded model")
    parser.add_argument("--strength", type=float, default=1.0, help="0 is off, 1 what it was trained for")
    options = parser.parse_args(arguments)
    write_piece(partial(make, lora=options.lora, strength=options.strength), options.out)


if __name__ == "__main__":
    main()
