# SPDX-License-Identifier: Apache-2.0
"""Operations that a decoder's forward needs, from its configuration: a multiplication and an addition count as two.

    linear       2 in out for every token and Linear, and for the convolutions at both ends
    attention    4 K heads head_dim for every token, block and attention: the products with K keys and with K values
    time         2 in out for every row and Linear of the first timestep's embedding

K is the number of condition tokens in cross-attention, the number of all tokens in full self-attention, and in a banded one the
number of tokens within the band, on average; by blocks the forward scores half as many again. Keys and values of the condition
and the second timestep's embedding are remembered, and cost a forward nothing. Neither norms nor activations are counted.

Configurations are those of diffusers' `AceStepTransformer1DModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIME_WAVES = 256
"""Inputs of the timestep's first Linear."""
FULL, BANDED = "full_attention", "sliding_attention"


def forward_flops(config: Mapping[str, Any], rows: int, frames: int, condition_tokens: int) -> float:
    """Of a forward of so many rows and latent frames (an odd number is filled up)."""
    tokens, width = -(-frames // config["patch_size"]), config["hidden_size"]
    time = 2 * width * (TIME_WAVES + width + 6 * width)
    return rows * (tokens * token_flops(config, tokens, condition_tokens) + time)


def token_flops(config: Mapping[str, Any], tokens: int, condition_tokens: int) -> float:
    """Of one of so many tokens of a row; without the time's, of which a row has one."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys_and_values = 2 * config["num_key_value_heads"] * config["head_dim"]
    attention = (2 * queries + keys_and_values) + 2 * queries  # to itself, and to a condition whose keys are there
    linear = layers * width * (attention + 3 * config["intermediate_size"])
    ends = config["patch_size"] * width * (config["in_channels"] + config["audio_acoustic_hidden_dim"])
    kinds = config["layer_types"] or [FULL if layer % 2 else BANDED for layer in range(layers)]
    scored = sum(tokens if kind == FULL else keys_in_band(tokens, config["sliding_window"]) for kind in kinds)
    return 2 * (linear + ends) + 4 * queries * (scored + layers * condition_tokens)


def keys_in_band(tokens: int, window: int) -> float:
    """Tokens at most `window` away from a token, itself included: the mean over all tokens."""
    reach = min(window, tokens - 1)
    return 1 + 2 * reach - reach * (reach + 1) / tokens
