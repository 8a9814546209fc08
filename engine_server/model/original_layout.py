# SPDX-License-Identifier: Apache-2.0
"""ACE-Step's original checkpoint layout as data: how its names and its configuration map to diffusers' modules.

An original folder keeps the whole model in one state dict, with upstream's module names, and one flat `config.json`. The
names below follow from upstream's and diffusers' module trees; the counts of a full-size model are checked in the tests.
Everything here is a pure function of names and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PARTS = {
    "decoder": "transformer",
    "encoder": "condition_encoder",
    "tokenizer": "audio_tokenizer",
    "detokenizer": "audio_token_detokenizer",
}
"""First component of an original name -> the diffusers module that owns the tensor."""

COMPONENTS = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",  # to_out.1 is a dropout without weights
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
"""Names inside attention; every component that is not listed keeps its name."""

PATCHES = {"proj_in.1.": "proj_in_conv.", "proj_out.1.": "proj_out_conv."}
"""The decoder's patch convolutions: upstream wraps each in a Sequential of transpose, convolution, transpose."""

NULL_CONDITION = "null_condition_emb"
"""The only parameter that upstream keeps at the top level."""

COMPUTED_BUFFERS = frozenset({"inv_freq", "original_inv_freq"})
"""Rotary tables, which some writers store although they follow from the configuration."""

REQUIRED_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
ATTENTION_FIELDS = ("head_dim", "attention_bias", "attention_dropout", "rms_norm_eps", "sliding_window")
WIDTH_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def is_computed(name: str) -> bool:
    """Whether an original tensor is one that nobody needs to load."""
    return name.rpartition(".")[2] in COMPUTED_BUFFERS


def rename(name: str) -> tuple[str, str] | None:
    """The diffusers module and the name in it of an original tensor; None if the layout has no such place."""
    if name == NULL_CONDITION:
        return "condition_encoder", name
    head, _, rest = name.partition(".")
    if head not in PARTS or not rest:
        return None
    if head == "decoder":
        for original, ours in PATCHES.items():
            if rest.startswith(original):
                return PARTS[head], ours + rest.removeprefix(original)
    return PARTS[head], ".".join(COMPONENTS.get(component, component) for component in rest.split("."))


def sort_names(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """For each diffusers module, its names -> the original names; and the original names that belong nowhere."""
    parts: dict[str, dict[str, str]] = {part: {} for part in PARTS.values()}
    unexpected = []
    for name in names:
        place = rename(name)
        if is_computed(name):
            continue
        if place is None:
            unexpected.append(name)
        else:
            parts[place[0]][place[1]] = name
    return parts, unexpected


def part_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of each diffusers module, from an original `config.json`.

    The condition encoder and the 5 Hz tokenizer have the decoder's width unless `encoder_*` fields say otherwise (XL). A
    field that is absent, and not one of `REQUIRED_FIELDS`, takes diffusers' default. Raises ValueError, naming the field.
    """
    _check(config)
    version = config.get("model_version")
    attention = _pick(config, ATTENTION_FIELDS) | _rope(config)
    encoder = attention | {field: config.get(f"encoder_{field}") or config[field] for field in WIDTH_FIELDS}
    pooler = (
        encoder
        | _pick(config, ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers"))
        | _first_layers(config, "num_attention_pooler_hidden_layers", 2)
    )
    return {
        "transformer": attention
        | _pick(config, (*WIDTH_FIELDS, "num_hidden_layers", "in_channels", "audio_acoustic_hidden_dim", "patch_size"))
        | _first_layers(config, "num_hidden_layers", 0)
        | {
            "encoder_hidden_size": encoder["hidden_size"],
            "is_turbo": bool(config.get("is_turbo", "turbo" in str(version))),
            "model_version": version,
        },
        "condition_encoder": encoder
        | _pick(config, ("text_hidden_dim", "timbre_hidden_dim"))
        | _pick(config, ("num_lyric_encoder_hidden_layers", "num_timbre_encoder_hidden_layers"))
        | _first_layers(config, "num_lyric_encoder_hidden_layers", 8),
        "audio_tokenizer": pooler | _pick(config, ("fsq_dim", "fsq_input_levels", "fsq_input_num_quantizers")),
        "audio_token_detokenizer": pooler,
    }


def _check(config: Mapping[str, Any]) -> None:
    """Refuse what diffusers' modules cannot express, rather than compute something else."""
    for field in REQUIRED_FIELDS:
        if not isinstance(config.get(field), int):
            raise ValueError(f"{field} is {config.get(field)!r}, not an integer")
    supported = {"hidden_act": "silu", "use_sliding_window": True, "rope_scaling": None}
    for field, value in supported.items():
        if config.get(field, value) != value:
            raise ValueError(f"{field} is {config[field]!r}; only {value!r} is supported")
    timbre = (config.get("layer_types") or [])[: config.get("num_timbre_encoder_hidden_layers") or 4]
    if list(timbre) != _alternation(len(timbre)):
        raise ValueError(f"layer_types begins {timbre}; the timbre encoder's layers can only alternate")


def _pick(config: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {field: config[field] for field in fields if config.get(field) is not None}


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta`, which transformers 5 writes inside `rope_parameters`."""
    return _pick({**(config.get("rope_parameters") or {}), **config}, ("rope_theta",))


def _first_layers(config: Mapping[str, Any], count: str, default: int) -> dict[str, Any]:
    """Upstream's encoders read the decoder's `layer_types` from its beginning."""
    kinds = config.get("layer_types")
    return {} if kinds is None else {"layer_types": list(kinds)[: config.get(count) or default]}


def _alternation(count: int) -> list[str]:
    return [("sliding_attention", "full_attention")[index % 2] for index in range(count)]
