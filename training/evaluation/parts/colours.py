# SPDX-License-Identifier: Apache-2.0
"""Words of tone and room: is "bright" brighter than "dark", does a hall ring longer than a dry room?"""

from __future__ import annotations

from collections.abc import Iterator

from training.evaluation.descriptors import describe
from training.evaluation.generate import Wish
from training.evaluation.report import Figure, Listing, mean, share
from training.evaluation.subject import Subject

SECONDS = 8.0
CONTRASTS = {
    "bright above dark": ("bright {}", "dark {}", "centroid oct"),
    "dry decays faster than a hall": ("{}, dry", "{} in a hall", "decay dB/s"),
}
"""Two prompts around a family's name, and the descriptor that should be higher in the first."""


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Both prompts of each contrast on every held-out piece, with the source's own family and one seed."""
    held_out = subject.held_out
    pieces = range(held_out.pieces)
    sources = [subject.prepare(held_out.audio(piece, 0, seconds=SECONDS)) for piece in pieces]
    for name, (first, second, descriptor) in CONTRASTS.items():
        wishes = [
            Wish(source, template.format(held_out.takes(piece)[0].family), piece)
            for piece, source in zip(pieces, sources, strict=True)
            for template in (first, second)
        ]
        values = [describe(subject.hear(latent))[descriptor] for latent in subject.covers(wishes, name)]
        gaps = [high - low for high, low in zip(values[::2], values[1::2], strict=True)]
        yield share(name, sum(gap > 0 for gap in gaps), len(gaps), f"by {descriptor}")
        yield mean(f"{name}, by how much", gaps, descriptor.rpartition(" ")[2])
