# SPDX-License-Identifier: Apache-2.0
"""A LoRA on top of the model: the strings cover of a piano piece, in the colour of a small set of extra weights.

There is no trained LoRA for the embedded model. Without `--lora` the example draws one at random and writes it as PEFT does: it
shows that the file is read, checked and heard, and sounds like nothing in particular. The decoder's own weights are never
changed; taking the LoRA out restores every bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine_server.model.lora import linear_shapes
from engine_server.session import Session
from engine_server.types import Latent
from examples.common import argument_parser, music, write_piece

RANK = 4
SIZE = 0.2
"""Standard deviation of the random factors."""


def write_random_lora(session: Session, path: Path) -> Path:
    """Random factors for the queries of all self-attentions, always the same ones."""
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name, (outside, inside) in linear_shapes(session.checkpoint.transformer).items():
        if name.endswith("self_attn.to_q"):
            for factor, shape in (("lora_A", (RANK, inside)), ("lora_B", (outside, RANK))):
                key = f"base_model.model.{name}.{factor}.weight"
                factors[key] = SIZE * torch.randn(shape, generator=generator)
    save_file(factors, path)
    return path


def make(session: Session, lora: Path | None = None) -> Latent:
    """The strings cover under a LoRA."""
    source = session.prepare_source(music("pair_piano_8s"))
    words = session.encode_text(tags="strings")
    with tempfile.TemporaryDirectory() as folder:
        session.apply_lora(lora or write_random_lora(session, Path(folder) / "random.safetensors"), scale=1.0)
    return session.generate(conditioning=words, source=source, denoise=0.9, seed=7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argument_parser(__file__, __doc__)
    parser.add_argument("--lora", type=Path, help="a safetensors file for the embedded model")
    options = parser.parse_args(arguments)
    write_piece(partial(make, lora=options.lora), options.out)


if __name__ == "__main__":
    main()
