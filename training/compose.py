# SPDX-License-Identifier: Apache-2.0
"""Composes short pieces by rule: chords, a melody, a counter line, a bass and sometimes drums.

The notes come from a seeded generator and use no third-party material; we dedicate them to the public domain (CC0).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

MELODY, CHORDS, COUNTER, BASS, DRUMS = range(5)  # voices
LOWEST_NOTE, HIGHEST_NOTE = 28, 100
MAJOR_TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 4, 5, 7, 9, 11),
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
    (0, 6, 5, 4),
    (0, 3, 0, 4),
    (5, 1, 4, 0),
    (0, 4, 3, 3),
    (3, 4, 2, 5),
    (0, 0, 3, 3),
    (0, 5, 1, 4),
)  # scale degrees of the chord roots, a bar each
TEXTURES: dict[frozenset[int], float] = {
    frozenset((MELODY, CHORDS, COUNTER, BASS)): 0.22,
    frozenset((MELODY, CHORDS, BASS)): 0.24,
    frozenset((MELODY, CHORDS)): 0.14,
    frozenset((MELODY, BASS)): 0.08,
    frozenset((CHORDS, BASS)): 0.08,
    frozenset((MELODY,)): 0.12,
    frozenset((CHORDS,)): 0.12,
}  # which voices play, and how often; drums are drawn apart
DRUM_SHARE = 0.47  # of the pieces with more than one voice: about 35 % of all
KICK, SNARE, CLOSED_HAT, OPEN_HAT, RIDE = 36, 38, 42, 46, 51


@dataclass(frozen=True)
class Note:
    """Times in seconds from the start of the piece; pitch and velocity as in MIDI."""

    voice: int
    start_s: float
    duration_s: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Piece:
    """A composition. `key` is like "Bb minor" (modes count as the major or minor they are nearest to), `beats` per bar."""

    notes: list[Note]
    bpm: int
    key: str
    beats: int


class _Composer:
    """Draws one piece; every choice comes from `rng`."""

    def __init__(self, rng: random.Random, seconds: float):
        self.rng = rng
        self.seconds = seconds
        self.bpm = rng.randint(62, 144)
        self.beat_s = 60 / self.bpm
        self.beats = rng.choice((2, 3, 3, 4, 4, 4, 4, 4, 4, 6))
        self.swing = rng.choice((0, 0, 0, rng.uniform(0.06, 0.17)))  # how late the half beat comes, in beats
        self.scale = rng.choice(SCALES)
        self.tonic = rng.randint(55, 66)
        self.progression = rng.choice(PROGRESSIONS)
        self.velocity = rng.randint(62, 102)
        self.swell = rng.choice((0, 6, 16))  # velocity, up and down within `swell_beats`
        self.swell_beats = rng.choice((4, 8, 16))
        self.voices = rng.choices(list(TEXTURES), list(TEXTURES.values()))[0]
        self.has_drums = len(self.voices) > 1 and rng.random() < DRUM_SHARE
        self.drum_style = rng.choice(("eighths", "four on the floor", "half time"))
        self.density = rng.choice((0.25, 0.5, 1, 1, 1, 2))  # melody notes per beat, roughly
        self.melody_octave = rng.choice((-1, 0, 0, 0))
        self.melody_hold = rng.choice((0.45, 0.9, 0.98))  # of the written length: staccato to legato
        alone = ("block",) if MELODY not in self.voices else ()  # held chords more often where nothing moves above
        self.chord_style = rng.choice(("block", *alone, "strum", "arpeggio"))
        self.chord_spread = rng.random() < 0.35  # the third an octave up
        self.bass_style = rng.choice(("root", "walk", "octave", "long", "long"))
        self.motif = [rng.choice((-3, -2, -1, -1, 0, 1, 1, 2, 3)) for _ in range(8)]
        self.melody_degree = rng.randint(2, 9)
        self.notes: list[Note] = []

    @property
    def key(self) -> str:
        tonics, mode = (MAJOR_TONICS, "major") if self.scale[2] == 4 else (MINOR_TONICS, "minor")
        return f"{tonics[self.tonic % 12]} {mode}"

    def pitch(self, degree: int, octave: int = 0) -> int:
        return self.tonic + 12 * (octave + degree // 7) + self.scale[degree % 7]

    def seconds_at(self, beat: float) -> float:
        """Swing delays the middle of each beat, and stretches what lies between."""
        whole, part = divmod(beat, 1.0)
        middle = 0.5 + self.swing
        part = part / 0.5 * middle if part < 0.5 else middle + (part - 0.5) / 0.5 * (1 - middle)
        return (whole + part) * self.beat_s

    def add(self, voice: int, beat: float, beats: float, pitch: int, velocity: float, hold: float = 0.92) -> None:
        start_s = max(0.0, self.seconds_at(beat) + self.rng.uniform(-0.008, 0.008))
        duration_s = (self.seconds_at(beat + beats) - self.seconds_at(beat)) * hold * self.rng.uniform(0.95, 1.02)
        end_s = min(start_s + max(duration_s, 0.06), self.seconds)
        if end_s - start_s < 0.04:
            return
        velocity += self.swell * math.sin(2 * math.pi * beat / self.swell_beats) + self.rng.randint(-8, 8)
        loudness = max(24, min(122, round(velocity) + (5 if beat % self.beats == 0 else 0)))
        self.notes.append(Note(voice, start_s, end_s - start_s, max(LOWEST_NOTE, min(HIGHEST_NOTE, pitch)), loudness))

    def compose(self) -> Piece:
        bars = int(self.seconds / self.beat_s / self.beats) + 1
        for bar in range(bars):
            root = self.progression[bar % len(self.progression)]
            beat = bar * self.beats
            if CHORDS in self.voices:
                self._chords(beat, root)
            if MELODY in self.voices:
                self._melody(beat, root)
            if COUNTER in self.voices:
                self._counter(beat, root)
            if BASS in self.voices:
                self._bass(beat, root)
            if self.has_drums:
                self._drums(beat)
        return Piece(self.notes, self.bpm, self.key, self.beats)

    def _chords(self, beat: int, root: int) -> None:
        degrees = [root, root + 2, root + 4] + ([root + 6] if self.rng.random() < 0.2 else [])
        if self.chord_spread:
            degrees[1] += 7
        velocity = self.velocity - (16 if MELODY in self.voices else 4)
        if self.chord_style == "block":
            for degree in degrees:
                self.add(CHORDS, beat, self.beats, self.pitch(degree), velocity, hold=0.97)
        elif self.chord_style == "strum":
            for step in range(self.beats):
                for order, degree in enumerate(degrees):
                    self.add(CHORDS, beat + step + 0.03 * order, 0.9, self.pitch(degree), velocity)
        else:
            for step in range(2 * self.beats):
                self.add(CHORDS, beat + step / 2, 0.5, self.pitch(degrees[(0, 1, 2, 1)[step % 4]]), velocity)

    def _melody(self, beat: int, root: int) -> None:
        lengths = (0.25, 0.5, 0.5, 1) if self.density > 1 else (0.5, 1, 1, 1.5, 2)
        stretch = {0.25: 2.5, 0.5: 1.5}.get(self.density, 1.0)
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
                octave = self.melody_octave + (0 if degree > 4 else 1)
                self.add(MELODY, beat + position, length, self.pitch(degree, octave), self.velocity, self.melody_hold)
            position += length

    def _counter(self, beat: int, root: int) -> None:
        half = self.beats / 2
        self.add(COUNTER, beat, half, self.pitch(root + 4), self.velocity - 20)
        self.add(COUNTER, beat + half, half, self.pitch(root + self.rng.choice((2, 5, 6))), self.velocity - 20)

    def _bass(self, beat: int, root: int) -> None:
        velocity = self.velocity - 5
        low = self.pitch(root, -2)
        if self.bass_style == "long":
            self.add(BASS, beat, self.beats, low, velocity, hold=0.97)
        elif self.bass_style == "octave":
            for step in range(2 * self.beats):
                self.add(BASS, beat + step / 2, 0.45, low + 12 * (step % 2), velocity)
        else:
            degrees = (0, 2, 4, 5) if self.bass_style == "walk" else (0, 0, 0, 0)
            for step in range(self.beats):
                self.add(BASS, beat + step, 0.93, self.pitch(root + degrees[step % 4], -2), velocity)

    def _drums(self, beat: int) -> None:
        half_time = self.drum_style == "half time"
        for step in range(2 * self.beats):
            if half_time and step % 2 == 0:
                self.add(DRUMS, beat + step / 2, 0.3, RIDE, self.velocity - 30)
            elif not half_time:
                hat = OPEN_HAT if self.rng.random() < 0.05 else CLOSED_HAT
                self.add(DRUMS, beat + step / 2, 0.3, hat, self.velocity - 35)
            on_beat = self.drum_style == "four on the floor" and step % 2 == 0
            if step == 0 or on_beat or self.rng.random() < 0.1:
                self.add(DRUMS, beat + step / 2, 0.3, KICK, self.velocity - 4)
            if step % 4 == 2 and not (half_time and step % 8 == 2):
                self.add(DRUMS, beat + step / 2, 0.3, SNARE, self.velocity - 10)


def compose(seed: int, seconds: float) -> Piece:
    """The piece of this seed: the same notes for ever. It fills `seconds`."""
    return _Composer(random.Random(f"demon-piece-{seed}"), seconds).compose()
