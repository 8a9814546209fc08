# SPDX-License-Identifier: Apache-2.0
"""When a GPU's memory is full: what a model takes of it, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from engine_server.model.layouts import TOKENIZERS, Layout
from engine_server.model.placement import Placement
from shared_protocol.errors import DemonError

FLOAT32_BYTES = 4


def too_large(name: str, layout: Layout, place: Placement, error: torch.OutOfMemoryError) -> DemonError:
    """`E_MEMORY` for a checkpoint that did not fit while it was loaded: what its weights take, and what torch says."""
    dtype = str(place.dtype).removeprefix("torch.")
    return DemonError(
        "E_MEMORY",
        f"{name} does not fit on {place.device}: its weights take {weight_bytes(layout, place) / 1e9:.2f} GB, the decoder in "
        f"{dtype} ({_said(error)}); end what else uses this GPU (see nvidia-smi), take another one (device cuda:N), a smaller "
        f"checkpoint, or the CPU (device cpu)",
    )


def memory_full(error: torch.OutOfMemoryError, smaller: str) -> DemonError:
    """`E_MEMORY` for work that did not fit. It holds nothing of the failure, whose frames would hold memory.

    smaller: what work would need less, as advice.
    """
    return DemonError(
        "E_MEMORY",
        f"the GPU's memory is full ({_said(error)}); end what else uses this GPU (see nvidia-smi), or {smaller}",
    )


def weight_bytes(layout: Layout, place: Placement) -> int:
    """What a checkpoint's weights take where they compute: those of codec and tokenizer are float32."""
    total = 0
    for part, content in layout.parts.items():
        values = _values({path for path, _ in content.places.values()}, {name for _, name in content.places.values()})
        total += values * (FLOAT32_BYTES if part in TOKENIZERS else place.dtype.itemsize)
    total += _values(layout.vae.glob("*.safetensors")) * FLOAT32_BYTES
    return total + _values(layout.text_encoder.glob("*.safetensors")) * place.dtype.itemsize


def _values(paths: Iterable[Path], names: set[str] | None = None) -> int:
    """Numbers in safetensors files, or in those of their tensors that are named."""
    total = 0
    for path in paths:
        with safe_open(path, framework="pt") as file:
            kept = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in kept)
    return total


def _said(error: torch.OutOfMemoryError) -> str:
    """The part of torch's message that has figures; what follows is advice to programmers."""
    return ". ".join(str(error).split(". ")[:3]).rstrip(".")
