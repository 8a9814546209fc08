# SPDX-License-Identifier: Apache-2.0
"""Where training artefacts live, and how resumable state and hashes are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEFAULT_WORK = Path("~/.cache/demon-bridge/training").expanduser()
EMBEDDED = Path(__file__).resolve().parent.parent / "engine_server" / "assets" / "embedded"


def state_path(work: Path, size: str, name: str) -> Path:
    """Where a checkpoint size keeps a state file, in a folder of its own."""
    return work / size / f"{name}.pt"


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Save into a folder that need not exist yet. A reader, or a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Content hash of named tensors' values, independent of dictionary order and of the sign of a zero: 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update((tensors[name].detach().float() + 0.0).contiguous().numpy().tobytes())  # -0.0 + 0.0 is 0.0
    return digest.hexdigest()[:16]
