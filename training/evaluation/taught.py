# SPDX-License-Identifier: Apache-2.0
"""What a prompt was taught to mean: a held-out piece's notes, played as training's soundfonts play the prompted instrument."""

from __future__ import annotations

from collections.abc import Sequence

from training.build_data import HELD_OUT_SEED, SILENT_END_S, SOUNDFONTS
from training.compose import compose
from training.evaluation.descriptors import centroid_hz
from training.evaluation.material import PIECE_S, from_int16
from training.evaluation.spectra import SAMPLE_RATE
from training.instruments import Programs
from training.render import render_each


def taught_centroids_hz(cases: Sequence[tuple[int, Programs]], seconds: float) -> list[tuple[float, ...]]:
    """For each piece's index and programs: the spectral centroid of its first seconds by each of training's soundfonts."""
    pieces = [compose(HELD_OUT_SEED + piece, PIECE_S - SILENT_END_S) for piece, _ in cases]
    programs, samples = [chosen for _, chosen in cases], round(seconds * SAMPLE_RATE)
    by_soundfont = [
        [centroid_hz(from_int16(audio[:samples])) for audio in render_each(pieces, programs, soundfont, PIECE_S)]
        for soundfont in SOUNDFONTS
    ]
    return list(zip(*by_soundfont, strict=True))
