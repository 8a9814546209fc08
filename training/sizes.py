# SPDX-License-Identifier: Apache-2.0
"""The two checkpoints that the same code makes: the one that ships, and a small one for fast tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Size:
    """Sizes of all parts. `codec` and `transformer` are arguments of their classes that differ from the defaults here."""

    name: str
    text_width: int
    codec: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)


SIZES = {
    size.name: size
    for size in (
        Size("embedded", 128),
        Size(
            "small",
            64,
            codec={"encoder_width": 128, "encoder_hidden": 256, "encoder_blocks": 1}
            | {"decoder_width": 128, "decoder_hidden": 384, "decoder_blocks": 2},
            transformer={"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
            | {"num_attention_heads": 2, "num_key_value_heads": 1},
        ),
    )
}
EMBEDDED_SIZE = SIZES["embedded"]
