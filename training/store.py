# SPDX-License-Identifier: Apache-2.0
"""Where training artefacts live, and how resumable state and hashes are kept."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DEFAULT_WORK = Path("~/.cache/demon-bridge/training").expanduser()
EMBEDDED = Path(__file__).resolve().parent.parent / "engine_server" / "assets" / "embedded"


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """A reader, or a crash, never sees half a file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Content hash of named tensors, independent of dictionary order: 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Ema:
    """Exponential moving average of a module's floating-point state, with a short warm-up."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 20))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


class Renders:
    """The aligned renders: audio [piece, take, sample, 2], and which family each take plays."""

    def __init__(self, work: Path):
        self.audio = np.load(work / "renders.npy", mmap_mode="r")
        info = json.loads((work / "renders.json").read_text())
        self.families: list[list[str]] = info["families"]
        self.training_pieces = len(self.families) - info["held_out_pieces"]

    @property
    def held_out_pieces(self) -> range:
        return range(self.training_pieces, len(self.families))
