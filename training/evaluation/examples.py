# SPDX-License-Identifier: Apache-2.0
"""What the judge learns from: pieces of its own by all families, as rendered and as a codec reproduces them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from engine_server.model.codec import Codec
from training.build_data import SOUNDFONTS, plan_hash
from training.evaluation import timbre
from training.evaluation.codec import reconstruct
from training.evaluation.material import built, from_int16
from training.evaluation.partials import chord
from training.instruments import FAMILIES, Programs
from training.renders import Renders, Take

if TYPE_CHECKING:
    from torch import Tensor

    from training.evaluation.progress import Silent

FIRST_SEED = 500_000
"""Of the judge's pieces, which neither training nor the held-out set uses."""
EXCERPT_S = 6.0
FINGERPRINT_S = 1.0
FOLDER = "judge"

MORE_PROGRAMS: Mapping[str, tuple[Programs, ...]] = {
    "piano": ((2, 2, 2, 2),),
    "music box": ((14, 14, 14, 14), (10, 9, 10, 8)),
    "marimba": ((108, 108, 108, 108), (13, 13, 13, 13)),
    "organ": ((17, 17, 17, 17), (20, 20, 20, 20)),
    "acoustic guitar": ((24, 25, 24, 32),),
    "electric guitar": ((29, 29, 29, 29), (30, 29, 30, 33)),
    "strings": ((49, 49, 49, 49), (50, 50, 50, 50), (40, 40, 40, 40), (42, 42, 42, 42), (110, 48, 48, 43)),
    "choir": ((54, 54, 54, 54), (91, 91, 91, 91)),
    "brass": ((57, 57, 57, 57), (59, 59, 59, 59), (62, 62, 62, 62), (63, 63, 63, 63), (56, 56, 56, 56)),
    "woodwinds": (
        (72, 72, 72, 70),
        (74, 74, 74, 70),
        (75, 75, 75, 70),
        (70, 70, 70, 70),
        (69, 69, 69, 70),
        (68, 68, 68, 70),
    ),
    "synth lead": ((84, 84, 84, 84), (87, 87, 87, 87), (81, 81, 81, 81)),
}
"""General MIDI programs that pass for a family beside those that prompts name: more kinds teach the judge what they share."""

Matrix = NDArray[np.float64]
Labels = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Examples:
    """Features `[N, F]` with the family and the piece of each, by number."""

    features: Matrix
    families: Labels
    pieces: Labels

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Examples:
        return Examples(self.features[chosen], self.families[chosen], self.pieces[chosen])

    def __add__(self, other: Examples) -> Examples:
        return Examples(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.families, other.families]),
            np.concatenate([self.pieces, other.pieces]),
        )


def plan(index: int) -> list[Take]:
    """A piece's takes: every family once, in one of its ways to play, with a soundfont of the training's.

    Half of them are dry and half in the small rooms that the training puts its takes in.
    """
    rng = random.Random(f"demon-judge-{index}")
    takes = []
    for family in FAMILIES:
        programs = rng.choice([each.programs for each in family.variants] + list(MORE_PROGRAMS.get(family.name, ())))
        colours = rng.choice(((), ("dry",)))
        takes.append(Take(family.name, (family.name,), colours, rng.choice(list(SOUNDFONTS)).name, programs))
    return takes


def gather(codec: Codec, work: Path, pieces: int, progress: Silent) -> tuple[Examples, Examples]:
    """All takes of so many pieces, as rendered and through the codec. Kept in the work folder between runs."""
    seeds, takes = [FIRST_SEED + index for index in range(pieces)], [plan(index) for index in range(pieces)]
    folder, name = work / FOLDER, plan_hash(seeds, takes, EXCERPT_S)  # features are of the audio that this tells
    renders = built(folder, name, seeds, takes, EXCERPT_S)
    stem = f"{name}_{timbre.VERSION}"
    rendered = _examples(folder / f"{stem}_rendered.npy", renders, None, progress)
    return rendered, _examples(folder / f"{stem}_{fingerprint(codec)}.npy", renders, codec, progress)


def fingerprint(codec: Codec) -> str:
    """Eight digits that tell codecs apart by what they do: a hash of a second of the chord, encoded and decoded."""
    sound = chord()[:, : round(FINGERPRINT_S * codec.sample_rate)]
    return _digest(reconstruct(codec, sound).contiguous().numpy().tobytes())


def _examples(path: Path, renders: Renders, codec: Codec | None, progress: Silent) -> Examples:
    """Of all takes, through a codec or as rendered; features are read where they are kept already."""
    cells = [(piece, take) for piece, row in enumerate(renders.takes) for take in range(len(row))]
    if path.exists():
        features: Matrix = np.load(path)
    else:
        text = "the judge's examples" if codec is None else "the judge's examples, coded"
        features = np.stack(
            [_features(from_int16(renders.audio[piece, take]), codec) for piece, take in progress.each(cells, text)]
        )
        partial = path.with_suffix(".partial.npy")
        np.save(partial, features)
        os.replace(partial, path)
    names = [family.name for family in FAMILIES]
    families = np.array([names.index(renders.takes[piece][take].family) for piece, take in cells])
    return Examples(features, families, np.array([piece for piece, _ in cells]))


@torch.no_grad()
def _features(audio: Tensor, codec: Codec | None) -> Matrix:
    return timbre.features(audio if codec is None else reconstruct(codec, audio))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
