# SPDX-License-Identifier: Apache-2.0
"""The instrument families that the embedded model knows: General MIDI programs and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass

Programs = tuple[int, int, int, int]


@dataclass(frozen=True)
class Variant:
    """One way to play a family.

    `words`: what a listener may call it; `programs`: General MIDI numbers from 0 for melody, chords, counter line and bass.
    """

    words: tuple[str, ...]
    programs: Programs


@dataclass(frozen=True)
class Family:
    """One colour of sound; all its variants should pass for it."""

    name: str
    variants: tuple[Variant, ...]


FAMILIES: tuple[Family, ...] = (
    Family(
        "piano",
        (
            Variant(("piano", "grand piano", "acoustic piano", "concert piano"), (0, 0, 0, 0)),
            Variant(("piano", "pop piano", "upright piano"), (1, 1, 1, 1)),
            Variant(("honky tonk piano", "saloon piano", "out of tune piano"), (3, 3, 3, 3)),
        ),
    ),
    Family(
        "electric piano",
        (
            Variant(("electric piano", "rhodes", "fender rhodes"), (4, 4, 4, 4)),
            Variant(("electric piano", "fm electric piano", "e-piano"), (5, 5, 5, 5)),
        ),
    ),
    Family(
        "music box",
        (
            Variant(("music box", "toy music box", "musical box"), (10, 10, 10, 10)),
            Variant(("celesta", "music box"), (8, 8, 8, 8)),
            Variant(("glockenspiel", "bells", "toy bells"), (9, 9, 8, 8)),
        ),
    ),
    Family(
        "marimba",
        (
            Variant(("marimba", "wooden mallets", "mallets"), (12, 12, 12, 12)),
            Variant(("xylophone", "xylophone and marimba", "wooden mallets"), (13, 12, 13, 12)),
        ),
    ),
    Family(
        "organ",
        (
            Variant(("organ", "church organ", "pipe organ", "cathedral organ"), (19, 19, 19, 19)),
            Variant(("organ", "hammond organ", "drawbar organ", "jazz organ"), (16, 16, 16, 16)),
            Variant(("rock organ", "organ"), (18, 18, 18, 18)),
        ),
    ),
    Family(
        "acoustic guitar",
        (
            Variant(("acoustic guitar", "nylon guitar", "classical guitar", "spanish guitar"), (24, 24, 24, 24)),
            Variant(("acoustic guitar", "folk guitar", "steel string guitar", "fingerpicked guitar"), (25, 25, 25, 25)),
        ),
    ),
    Family(
        "electric guitar",
        (
            Variant(("electric guitar", "overdriven guitar", "rock guitar"), (29, 29, 29, 33)),
            Variant(("electric guitar", "distorted guitar", "metal guitar", "heavy guitar"), (30, 30, 30, 34)),
        ),
    ),
    Family(
        "strings",
        (
            Variant(("strings", "string orchestra", "string ensemble", "orchestral strings"), (48, 48, 48, 48)),
            Variant(("strings", "string quartet", "violin and cello", "violin"), (40, 41, 41, 42)),
            Variant(("tremolo strings", "strings"), (44, 44, 44, 44)),
        ),
    ),
    Family(
        "choir",
        (
            Variant(("choir", "vocal choir", "singing voices", "choir of voices"), (52, 52, 52, 52)),
            Variant(("choir", "humming voices", "humming choir"), (53, 53, 53, 53)),
        ),
    ),
    Family(
        "brass",
        (
            Variant(("brass", "brass section", "brass band", "big band brass"), (61, 61, 61, 58)),
            Variant(("brass", "trumpet", "trumpet and trombone"), (56, 57, 57, 58)),
            Variant(("french horns", "horns", "brass"), (60, 60, 60, 58)),
        ),
    ),
    Family(
        "woodwinds",
        (
            Variant(("woodwinds", "wind quintet", "woodwind ensemble"), (73, 68, 71, 70)),
            Variant(("flute", "flutes", "woodwinds"), (73, 73, 73, 71)),
            Variant(("clarinet", "clarinets", "woodwinds"), (71, 71, 71, 71)),
            Variant(("oboe", "oboe and bassoon", "woodwinds"), (68, 69, 68, 70)),
        ),
    ),
    Family(
        "synth lead",
        (
            Variant(("synth lead", "saw synth", "synthesizer", "analog synth"), (81, 81, 81, 38)),
            Variant(("synth lead", "square synth", "chiptune", "8-bit synth"), (80, 80, 80, 80)),
        ),
    ),
)

MIXED = "mixed"
MIXED_WORDS = ("full band", "mixed ensemble", "small band")
