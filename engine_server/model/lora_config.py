# SPDX-License-Identifier: Apache-2.0
"""How strong a LoRA file is meant to be: the rank and alpha of every Linear, as its settings tell them.

The settings are those of PEFT, in a file beside the weights or in the metadata of diffusers' files; else there may be one alpha
in the metadata. An alpha that a file stores as a tensor of its own comes before all of these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from shared_protocol.errors import DemonError

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's settings, beside its file."""
EMBEDDED_CONFIG = "lora_adapter_metadata"
"""The same settings in the metadata of diffusers' files."""
ALPHA_METADATA = ("lora_alpha", "alpha", "ss_network_alpha")


class PeftConfig(msgspec.Struct, frozen=True):
    """The part of PEFT's `LoraConfig` that shapes the sound; patterns are regular expressions of module paths."""

    peft_type: str = "LORA"
    use_dora: bool = False
    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False


@dataclass(frozen=True)
class LoraConfig:
    """The settings of the LoRA file at `path`. Its methods raise DemonError `E_LORA_FILE` for a pattern that is no expression."""

    path: Path
    source: str
    """What `peft` was read from, or that there was nothing to read."""
    peft: PeftConfig

    def rank(self, module: str) -> float | None:
        """The rank that a Linear, by its path in the file, should have; None if nothing is said."""
        return self._by_pattern(self.peft.rank_pattern, module, self.peft.r)

    def alpha_and_scale(self, module: str, rank: int, stored: float | None) -> tuple[float, float]:
        """Alpha of a Linear of this rank, and what its `up` is multiplied by; `stored` is the file's own alpha tensor."""
        if stored is not None:
            return stored, stored / rank
        alpha = self._by_pattern(self.peft.alpha_pattern, module, self.peft.lora_alpha)
        if alpha is None:
            return float(rank), 1.0
        return alpha, alpha / (math.sqrt(rank) if self.peft.use_rslora else rank)

    def _by_pattern(self, patterns: Mapping[str, float] | None, module: str, default: float | None) -> float | None:
        """The value of the first pattern that matches the end of a module path, from a whole name on: PEFT's rule."""
        for pattern, value in (patterns or {}).items():
            try:
                if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                    return value
            except re.error as error:
                message = f"{self.path}: its pattern {pattern!r} is not a regular expression"
                raise DemonError("E_LORA_FILE", message) from error
        return default


def read_config(path: Path, metadata: Mapping[str, str], *, is_peft: bool) -> LoraConfig:
    """The settings of a LoRA file with this metadata; `is_peft`: whether its keys are spelt as PEFT spells them.

    Raises DemonError: `E_LORA_FILE` for settings that cannot be read, `E_LORA_KIND` if they are not those of a plain LoRA.
    """
    beside = path.with_name(ADAPTER_CONFIG)
    try:
        if EMBEDDED_CONFIG in metadata:
            source, settings = EMBEDDED_CONFIG, msgspec.json.decode(metadata[EMBEDDED_CONFIG], type=dict[str, Any])
        elif is_peft and beside.is_file():
            source, settings = ADAPTER_CONFIG, msgspec.json.decode(beside.read_bytes(), type=dict[str, Any])
        else:
            alphas = [key for key in ALPHA_METADATA if metadata.get(key, "None") != "None"]
            source = alphas[0] if alphas else "nothing: alpha is taken to be the rank, a scale of 1"
            settings = {"lora_alpha": metadata[alphas[0]]} if alphas else {}
        plain = {key.removeprefix("transformer."): value for key, value in settings.items()}
        peft = msgspec.convert(plain, PeftConfig, strict=False)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DemonError("E_LORA_FILE", f"{path}: its settings cannot be read: {error}") from error
    if peft.peft_type != "LORA" or peft.use_dora:
        kind = "DoRA" if peft.use_dora else peft.peft_type
        raise DemonError("E_LORA_KIND", f"{path}: {source} says that this is {kind}; only LoRA of Linears is taken")
    return LoraConfig(path, source, peft)


def alpha_number(path: Path, key: str, value: torch.Tensor) -> float:
    """An alpha tensor as a number. Raises DemonError: `E_LORA_SHAPE` if it is not one number, `E_NOT_FINITE`."""
    if value.numel() != 1:
        raise DemonError("E_LORA_SHAPE", f"{path}: {key} has shape {list(value.shape)}, and alpha is one number")
    if not torch.isfinite(value).all():
        raise DemonError("E_NOT_FINITE", f"{path}: {key} is {value.item()}")
    return float(value.item())
