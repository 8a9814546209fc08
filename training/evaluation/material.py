# SPDX-License-Identifier: Apache-2.0
"""The music that a checkpoint is judged by: held-out pieces by a held-out soundfont, and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.build_data import HELD_OUT, HELD_OUT_SEED, build, plan_evaluation, plan_hash
from training.evaluation.spectra import REFERENCE_RMS, SAMPLE_RATE
from training.renders import Renders, Take

PIECE_S = 12.0
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RECORDINGS = ("turin_italy_30s", "van_theme_12s")
"""Real music that training never hears (see fixtures/LICENSES.md)."""
PAIRS = ("pair_piano_8s", "pair_strings_8s", "pair_electric_guitar_8s")
"""One piece by three families."""
LOUDEST = 0.98


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Music with a name: audio `[2, S]` at 48 kHz."""

    name: str
    audio: Tensor


class HeldOut:
    """The evaluation's renders: pieces that training never saw, each by six families, by a soundfont it never heard.

    All of them are the training's own `evaluation` set, fewer are `evaluation_N`. What the work folder does not have, or has
    by another plan, is rendered into it.
    """

    def __init__(self, work: Path, pieces: int = HELD_OUT) -> None:
        self.pieces = pieces
        self._work = work

    @cached_property
    def _renders(self) -> Renders:
        return built(
            self._work,
            "evaluation" if self.pieces == HELD_OUT else f"evaluation_{self.pieces}",
            [HELD_OUT_SEED + index for index in range(self.pieces)],
            [plan_evaluation(index) for index in range(self.pieces)],
            PIECE_S,
        )

    def takes(self, piece: int) -> list[Take]:
        """What plays each take of a piece."""
        return self._renders.takes[piece]

    def audio(self, piece: int, take: int, *, first_s: float = 0.0, seconds: float | None = None) -> Tensor:
        """A take, or a part of it, at the reference level: `[2, S]`."""
        samples = self._renders.audio[piece, take]
        first = round(first_s * SAMPLE_RATE)
        return from_int16(samples[first:] if seconds is None else samples[first : first + round(seconds * SAMPLE_RATE)])


def built(work: Path, name: str, seeds: Sequence[int], takes: Sequence[Sequence[Take]], piece_s: float) -> Renders:
    """Renders of a name in a folder, made if they are not there or were made to another plan (`build_data.plan_hash`).

    Raises FileNotFoundError without a soundfont that takes name.
    """
    work.mkdir(parents=True, exist_ok=True)
    plan = plan_hash(seeds, takes, piece_s)
    try:
        renders = Renders(work, name)
        if renders.plan == plan:
            return renders
    except FileNotFoundError:
        pass
    build(name, work, list(seeds), [list(row) for row in takes], piece_s, workers=1)
    return Renders(work, name)


def fixture(name: str) -> Path:
    """The file of one of the project's songs."""
    return FIXTURES / f"{name}.flac"


def recordings(longest_s: float) -> list[Excerpt]:
    """The beginnings of the real recordings among the project's fixtures."""
    return [Excerpt(name, read(fixture(name), longest_s)) for name in RECORDINGS]


def read(path: Path, longest_s: float) -> Tensor:
    """The beginning of an audio file, `[2, S]` at 48 kHz; mono plays on both sides."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = soxr.resample(audio[: round(longest_s * rate), [0, -1]], rate, SAMPLE_RATE)
    return torch.from_numpy(np.ascontiguousarray(audio.T))


def from_int16(samples: NDArray[np.int16]) -> Tensor:
    """`[S, 2]` -> `[2, S]` floats at the reference level, lower where peaks would pass full scale."""
    audio = torch.from_numpy(samples.astype(np.float32)).T.contiguous() / 32768
    level, peak = float(audio.square().mean().sqrt()), float(audio.abs().max())
    return audio * min(REFERENCE_RMS / max(level, 1e-4), LOUDEST / max(peak, 1e-4))
