# SPDX-License-Identifier: Apache-2.0
"""Dose: how far `denoise` and `source_blend` take the music from its source, and whether more is always farther."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from training.evaluation.generate import Wish
from training.evaluation.latents import latent_distance
from training.evaluation.report import Figure, Listing, share
from training.evaluation.spectra import log_mel_distance
from training.evaluation.subject import Subject

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SECONDS = 8.0
SLACK = 0.01
"""A step counts as farther if it goes back by no more than this share of the whole way."""
CONTROLS: Mapping[str, Callable[[float], dict[str, float]]] = {
    "denoise": lambda level: {"denoise": level},
    "source_blend": lambda level: {"source_blend": level},
}
COLUMNS = ("control", "level", "latent RMS distance", "log-mel distance, nat")


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Distances from the source at each level, on the mean of a few pieces."""
    pieces = range(min(subject.held_out.pieces, 6))
    sources = [subject.prepare(subject.held_out.audio(piece, 0, seconds=SECONDS)) for piece in pieces]
    prompts = [subject.held_out.takes(piece)[1].words[0] for piece in pieces]
    rows: list[tuple[str, float, float, float]] = []
    for control, options in CONTROLS.items():
        farther, steps = 0, 0
        wishes = [
            Wish(source, prompt, piece, options(level))
            for piece, source, prompt in zip(pieces, sources, prompts, strict=True)
            for level in LEVELS
        ]
        points = _distances(subject, wishes, f"dose of {control}")
        curves = [points[start : start + len(LEVELS)] for start in range(0, len(points), len(LEVELS))]
        for quantity in (0, 1):
            for curve in curves:
                steps += len(curve) - 1
                farther += steps_farther([point[quantity] for point in curve])
        yield share(f"{control}: steps that go farther", farther, steps, "per piece, latents and log-mel")
        for index, level in enumerate(LEVELS):
            latents, mels = (statistics.mean(curve[index][quantity] for curve in curves) for quantity in (0, 1))
            rows.append((control, level, latents, mels))
    yield Figure("distance at denoise 0", rows[0][2], "", len(pieces), note="of the latents")
    yield Listing("dose", COLUMNS, rows)


def steps_farther(distances: Sequence[float]) -> int:
    """How many steps from level to level do not come back, but for `SLACK` of the whole way."""
    way = max(distances) - min(distances)
    return sum(b >= a - SLACK * way for a, b in pairwise(distances))


def _distances(subject: Subject, wishes: list[Wish], text: str) -> list[tuple[float, float]]:
    """Of the latents and of what is heard, each wish from its own source."""
    distances = []
    for wish, latent in zip(wishes, subject.covers(wishes, text), strict=True):
        source = wish.source.latent
        distances.append(
            (latent_distance(latent, source), log_mel_distance(subject.hear(source), subject.hear(latent)))
        )
    return distances
