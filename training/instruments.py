# SPDX-License-Identifier: Apache-2.0
"""The instrument families that the embedded model knows: General MIDI programs and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One colour of sound. `programs`: General MIDI numbers from 0, for melody, chords, counter line and bass."""

    name: str
    programs: tuple[int, int, int, int]
    words: tuple[str, ...]


FAMILIES: tuple[Family, ...] = (
    Family("piano", (0, 0, 1, 0), ("piano", "grand piano", "solo piano", "acoustic piano")),
    Family("electric piano", (4, 5, 4, 4), ("electric piano", "rhodes", "fender rhodes", "wurlitzer")),
    Family("harpsichord", (6, 6, 6, 6), ("harpsichord", "baroque harpsichord", "clavecin")),
    Family("music box", (10, 9, 11, 10), ("music box", "glockenspiel", "toy bells", "celesta")),
    Family("marimba", (12, 12, 11, 12), ("marimba", "wooden mallets", "xylophone and marimba", "mallets")),
    Family("church organ", (19, 19, 19, 19), ("church organ", "pipe organ", "organ", "cathedral organ")),
    Family(
        "acoustic guitar", (25, 24, 24, 32), ("acoustic guitar", "nylon guitar", "folk guitar", "fingerpicked guitar")
    ),
    Family(
        "electric guitar", (29, 30, 29, 33), ("electric guitar", "distorted guitar", "rock guitar", "overdriven guitar")
    ),
    Family(
        "strings", (40, 48, 41, 42), ("strings", "string quartet", "violin and cello", "string orchestra", "violins")
    ),
    Family("choir", (52, 52, 53, 52), ("choir", "vocal choir", "choir of voices", "singing voices")),
    Family("brass", (56, 61, 60, 58), ("brass", "trumpets and horns", "brass band", "brass section")),
    Family("woodwinds", (73, 68, 71, 70), ("woodwinds", "flute and clarinet", "wind quintet", "flute", "clarinet")),
    Family("synth lead", (81, 80, 81, 38), ("synth lead", "synthesizer", "saw synth", "analog synth")),
    Family("synth pad", (89, 88, 90, 39), ("synth pad", "ambient pad", "warm pad", "soft synth")),
)

FAMILY_INDEX: dict[str, int] = {family.name: index for index, family in enumerate(FAMILIES)}
