# SPDX-License-Identifier: Apache-2.0
"""What the renders are: every piece, every take of it, and the file that says so beside the audio."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.instruments import Programs


@dataclass(frozen=True)
class Take:
    """How one rendering of a piece sounds, and what it may be called.

    `family` is a family's name or "mixed"; `words` are names for the instruments; `colours` names the tone and the room,
    where they are pronounced; `soundfont` is a file name.
    """

    family: str
    words: tuple[str, ...]
    colours: tuple[str, ...]
    soundfont: str
    programs: Programs


@dataclass(frozen=True)
class PieceInfo:
    """What is known of a piece's notes; `beats` per bar."""

    seed: int
    bpm: int
    key: str
    beats: int


def write_info(
    path: Path, pieces: Sequence[PieceInfo], takes: Sequence[Sequence[Take]], held_out: int, plan: str = ""
) -> None:
    """The description that `Renders` reads; the last `held_out` pieces are for tests only.

    `plan`: see `build_data.plan_hash`; it makes the description of other audio another text.
    """
    info = {
        "plan": plan,
        "pieces": [asdict(piece) for piece in pieces],
        "takes": [[asdict(take) for take in row] for row in takes],
        "held_out_pieces": held_out,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(info, indent=1))
    os.replace(partial, path)


def data_hash(work: Path) -> str:
    """Hash of the descriptions of renders and recordings: 16 hex digits."""
    texts = [(work / f"{name}.json").read_bytes() for name in ("renders", "recordings")]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


class Renders:
    """Aligned renders: `audio` int16 [piece, take, sample, 2] at 48 kHz, what each take is, and what each piece is.

    `name` is "renders" for the training set, with its held-out pieces at the end, or "evaluation" for the held-out pieces
    by a soundfont that training never hears. `plan` tells what they were rendered from (`build_data.plan_hash`). Raises
    FileNotFoundError before they are built.
    """

    def __init__(self, work: Path, name: str = "renders"):
        info = json.loads((work / f"{name}.json").read_text())
        self.audio = np.load(work / f"{name}.npy", mmap_mode="r")
        self.pieces = [PieceInfo(**piece) for piece in info["pieces"]]
        self.takes = [[_read_take(take) for take in row] for row in info["takes"]]
        self.plan: str = info["plan"]
        self.training_pieces: int = len(self.pieces) - info["held_out_pieces"]


def _read_take(values: dict[str, Any]) -> Take:
    lists = {name: tuple(values[name]) for name in ("words", "colours", "programs")}
    return Take(**{**values, **lists})
