# SPDX-License-Identifier: Apache-2.0
"""Attention within a sliding window: by blocks, against a bias over all keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.model.attention import attend, attend_by_blocks, band_bias, block_bias
from tests.bench.forward import relative_error
from tests.bench.measure import Row, compared, interleaved
from tests.bench.models import EMBEDDED, Effort

ROUNDS = 5


class _Heads(NamedTuple):
    """Of a model: its attention heads, those of keys, their width, and the window in tokens to each side."""

    name: str
    heads: int
    kv_heads: int
    width: int
    window: int


MODELS = (_Heads(EMBEDDED, 4, 2, 64, 64), _Heads("ACE-Step 2B", 16, 8, 128, 128))
WINDOWS = (4, 5, 6, 12, 24)
"""Windows in a sequence; 6 are about 60 s of ACE-Step."""


@torch.inference_mode()
def rows(effort: Effort) -> Iterator[Row]:
    """One layer's attention of a ring's batch, for every model and length."""
    for model in MODELS[:1] if effort.quick else MODELS:
        for count in WINDOWS[:2] if effort.quick else WINDOWS:
            yield _compared(model, count * model.window, effort)


def _compared(model: _Heads, tokens: int, effort: Effort) -> Row:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(DEFAULT_BATCH, tokens, heads, model.width, generator=generator).transpose(1, 2)
        for heads in (model.heads, model.kv_heads, model.kv_heads)
    )
    scale = model.width**-0.5
    band = band_bias(tokens, model.window, query, real=tokens)
    blocks = block_bias(tokens, model.window, query, real=tokens)
    actions = {
        "blocks": lambda: attend_by_blocks(query, key, value, blocks, scale),
        "band": lambda: attend(query, key, value, band, scale),
    }
    took = interleaved(actions, effort.rounds(ROUNDS))
    return compared(
        f"{model.name}: attention of {DEFAULT_BATCH} x {tokens} tokens by blocks, {tokens // model.window} windows",
        took["blocks"],
        "a bias over all keys",
        took["band"],
        error=relative_error(actions["blocks"](), actions["band"]()),
    )
