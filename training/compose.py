# SPDX-License-Identifier: Apache-2.0
"""Composes short pieces by rule: chords, a melody, a counter line, a bass and sometimes drums.

The notes come from a seeded generator and use no third-party material; we dedicate them to the public domain (CC0).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MELODY, CHORDS, COUNTER, BASS, DRUMS = range(5)  # voices
LOWEST_NOTE, HIGHEST_NOTE = 28, 100
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 3, 5, 7, 8, 10),  # natural minor
    (0, 2, 3, 5, 7, 9, 10),  # dorian
    (0, 2, 4, 5, 7, 9, 10),  # mixolydian
    (0, 2, 3, 5, 7, 8, 11),  # harmonic minor
)
PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (5, 3, 0, 4),
    (0, 3, 4, 4),
    (0, 2, 3, 4),
    (1, 4, 0, 0),
    (0, 3, 6, 2, 5, 1, 4, 0),
)  # scale degrees of the chord roots, a bar each
KICK, SNARE, CLOSED_HAT, OPEN_HAT = 36, 38, 42, 46


@dataclass(frozen=True)
class Note:
    """Times in seconds from the start of the piece; pitch and velocity as in MIDI."""

    voice: int
    start_s: float
    duration_s: float
    pitch: int
    velocity: int


class _Composer:
    """Draws one piece; every choice comes from `rng`."""

    def __init__(self, rng: random.Random, seconds: float):
        self.rng = rng
        self.seconds = seconds
        self.beat_s = 60 / rng.choice((66, 76, 88, 100, 112, 124, 138))
        self.beats = rng.choice((3, 4, 4, 4))
        self.scale = rng.choice(SCALES)
        self.tonic = rng.randint(55, 66)
        self.progression = rng.choice(PROGRESSIONS)
        self.velocity = rng.randint(66, 100)
        self.density = rng.choice((0.5, 1, 1, 2))  # melody notes per beat, roughly
        self.chord_style = rng.choice(("block", "strum", "arpeggio", "arpeggio", "rest"))
        self.bass_style = rng.choice(("root", "walk", "octave", "long"))
        self.has_counter = rng.random() < 0.5
        self.has_drums = rng.random() < 0.35
        self.motif = [rng.choice((-3, -2, -1, -1, 0, 1, 1, 2, 3)) for _ in range(8)]
        self.melody_degree = rng.randint(2, 9)
        self.notes: list[Note] = []

    def pitch(self, degree: int, octave: int = 0) -> int:
        return self.tonic + 12 * (octave + degree // 7) + self.scale[degree % 7]

    def add(self, voice: int, beat: float, beats: float, pitch: int, velocity: int) -> None:
        start_s = max(0.0, beat * self.beat_s + self.rng.uniform(-0.008, 0.008))
        duration_s = beats * self.beat_s * self.rng.uniform(0.85, 0.98)
        end_s = min(start_s + duration_s, self.seconds)
        if end_s - start_s < 0.04:
            return
        velocity = max(20, min(120, velocity + self.rng.randint(-10, 10)))
        self.notes.append(Note(voice, start_s, end_s - start_s, max(LOWEST_NOTE, min(HIGHEST_NOTE, pitch)), velocity))

    def compose(self) -> list[Note]:
        bars = int(self.seconds / self.beat_s / self.beats) + 1
        for bar in range(bars):
            root = self.progression[bar % len(self.progression)]
            self._chords(bar * self.beats, root)
            self._melody(bar * self.beats, root)
            self._counter(bar * self.beats, root)
            self._bass(bar * self.beats, root)
            self._drums(bar * self.beats)
        return self.notes

    def _chords(self, beat: int, root: int) -> None:
        degrees = [root, root + 2, root + 4] + ([root + 6] if self.rng.random() < 0.2 else [])
        velocity = self.velocity - 20
        if self.chord_style == "block":
            for degree in degrees:
                self.add(CHORDS, beat, self.beats, self.pitch(degree), velocity)
        elif self.chord_style == "strum":
            for step in range(self.beats):
                for order, degree in enumerate(degrees):
                    self.add(CHORDS, beat + step + 0.03 * order, 0.9, self.pitch(degree), velocity)
        elif self.chord_style == "arpeggio":
            for step in range(2 * self.beats):
                self.add(CHORDS, beat + step / 2, 0.5, self.pitch(degrees[(0, 1, 2, 1)[step % 4]]), velocity)

    def _melody(self, beat: int, root: int) -> None:
        lengths = (0.25, 0.5, 0.5, 1) if self.density > 1 else (0.5, 1, 1, 1.5, 2)
        stretch = 1.4 if self.density < 1 else 1.0
        position = 0.0
        while position < self.beats - 1e-6:
            length = min(self.rng.choice(lengths) * stretch, self.beats - position)
            if self.rng.random() > 0.12:
                step = self.motif[int(beat + 2 * position) % len(self.motif)]
                self.melody_degree = max(-1, min(13, self.melody_degree + step))
                degree = self.melody_degree
                if self.rng.random() < 0.4:  # settle on the nearest chord tone
                    tones = [d for d in range(-1, 14) if (d - root) % 7 in (0, 2, 4)]
                    degree = min(tones, key=lambda d: abs(d - self.melody_degree))
                self.add(MELODY, beat + position, length, self.pitch(degree, 0 if degree > 4 else 1), self.velocity)
            position += length

    def _counter(self, beat: int, root: int) -> None:
        if self.has_counter:
            half = self.beats / 2
            self.add(COUNTER, beat, half, self.pitch(root + 4), self.velocity - 22)
            self.add(COUNTER, beat + half, half, self.pitch(root + self.rng.choice((2, 5, 6))), self.velocity - 22)

    def _bass(self, beat: int, root: int) -> None:
        velocity = self.velocity - 5
        low = self.pitch(root, -2)
        if self.bass_style == "long":
            self.add(BASS, beat, self.beats, low, velocity)
        elif self.bass_style == "octave":
            for step in range(2 * self.beats):
                self.add(BASS, beat + step / 2, 0.45, low + 12 * (step % 2), velocity)
        else:
            degrees = (0, 2, 4, 5) if self.bass_style == "walk" else (0, 0, 0, 0)
            for step in range(self.beats):
                self.add(BASS, beat + step, 0.93, self.pitch(root + degrees[step % 4], -2), velocity)

    def _drums(self, beat: int) -> None:
        if not self.has_drums:
            return
        for step in range(2 * self.beats):
            hat = OPEN_HAT if self.rng.random() < 0.05 else CLOSED_HAT
            self.add(DRUMS, beat + step / 2, 0.3, hat, self.velocity - 35)
            if step % (2 * self.beats) == 0 or self.rng.random() < 0.12:
                self.add(DRUMS, beat + step / 2, 0.3, KICK, self.velocity)
            if step % 4 == 2:
                self.add(DRUMS, beat + step / 2, 0.3, SNARE, self.velocity - 8)


def compose(seed: int, seconds: float) -> list[Note]:
    """The piece of this seed: the same notes for ever."""
    return _Composer(random.Random(f"demon-piece-{seed}"), seconds).compose()
