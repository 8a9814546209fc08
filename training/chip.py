# SPDX-License-Identifier: Apache-2.0
"""A chiptune synthesiser in the manner of the sound chips of 1980s game consoles, for the `chip` LoRA's targets.

Pulse waves at three duties, a triangle for the bass, noise for the drums, volumes in 16 steps that change 60 times a
second. The pitched waves are band-limited wavetables, so unlike those chips it does not alias.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np

from training.compose import BASS, CHORDS, CLOSED_HAT, COUNTER, DRUMS, KICK, MELODY, OPEN_HAT, RIDE, SNARE, Note, Piece
from training.render import SAMPLE_RATE

DUTIES = ((0.25, 0.125, 0.5), (0.5, 0.125, 0.25), (0.125, 0.25, 0.5), (0.25, 0.5, 0.125))  # melody, chords, counter
GAINS = {MELODY: 0.26, CHORDS: 0.13, COUNTER: 0.15, BASS: 0.34, DRUMS: 0.24}
HIGHEST_HZ = 20000
TABLE = 4096  # samples of a wavetable's period
VOLUME_HZ, LOUDEST = 60, 15  # volumes are 0 to 15, as in four bits
RELEASE_S, RAMP_S = 0.03, 0.001
PLUCK_S, SUSTAIN = 0.12, 0.5  # volumes fall to this share with this time constant
VIBRATO_HZ, VIBRATO_CENTS, VIBRATO_FROM_S = 6.0, 14.0, 0.25
DRUM_S = {KICK: 0.16, SNARE: 0.16, CLOSED_HAT: 0.05, OPEN_HAT: 0.25, RIDE: 0.18}
NOISE_HZ = {SNARE: 12000, CLOSED_HAT: 32000, OPEN_HAT: 32000, RIDE: 20000}  # rate of the random bits
KICK_HZ, KICK_SWEEP_S = (170.0, 46.0), 0.035  # from, to, and how fast


def render(piece: Piece, seconds: float) -> np.ndarray:
    """The piece as float32 [samples, 2] at 48 kHz, both channels alike; the same samples for the same piece."""
    samples = round(seconds * SAMPLE_RATE)
    mix = np.zeros(samples)
    rng = random.Random(f"demon-chip-{piece.bpm}-{piece.key}-{len(piece.notes)}")
    duties: dict[int, float] = dict(zip((MELODY, CHORDS, COUNTER), rng.choice(DUTIES), strict=True))
    noise = np.random.default_rng(rng.randrange(1 << 30))
    for note in piece.notes:
        sound = _drum(note, noise) if note.voice == DRUMS else _tone(note, duties.get(note.voice))
        start = round(note.start_s * SAMPLE_RATE)
        sound = sound[: samples - start]
        mix[start : start + len(sound)] += GAINS[note.voice] * sound
    return np.repeat(mix[:, None], 2, axis=1).astype(np.float32)


def _tone(note: Note, duty: float | None) -> np.ndarray:
    """One note on a pulse wave of this duty, or on a triangle without one: [samples], peak about 1."""
    frequency = 440 * 2 ** ((note.pitch - 69) / 12)
    times = np.arange(round((note.duration_s + RELEASE_S) * SAMPLE_RATE)) / SAMPLE_RATE
    depth = np.clip((times - VIBRATO_FROM_S) * 4, 0, 1) * VIBRATO_CENTS / 1200
    pitch = frequency * 2 ** (depth * np.sin(2 * math.pi * VIBRATO_HZ * times))
    phase = np.cumsum(pitch) / SAMPLE_RATE % 1
    highest = frequency * 2 ** (VIBRATO_CENTS / 1200)
    table = wavetable(duty, int(HIGHEST_HZ / highest))
    wave = np.interp(phase * TABLE, np.arange(TABLE + 1), table)
    level = np.full(len(times), note.velocity / 127)
    if duty is not None:
        level *= SUSTAIN + (1 - SUSTAIN) * np.exp(-times / PLUCK_S)
    return wave * _volume(times, level, note.duration_s)


@lru_cache(maxsize=512)
def wavetable(duty: float | None, harmonics: int) -> np.ndarray:
    """One period of a pulse of a duty, or of a triangle, made of so many harmonics: [TABLE + 1], the last as the first."""
    k = np.arange(1, min(max(harmonics, 1), TABLE // 8) + 1)
    if duty is None:
        amplitudes = 8 / (math.pi * k) ** 2 * np.sin(math.pi * k / 2)
    else:
        amplitudes = 4 / (math.pi * k) * np.sin(math.pi * k * duty)
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[k] = amplitudes * TABLE / 2 * (-1j if duty is None else 1)
    period = np.fft.irfft(spectrum, TABLE)
    return np.append(period, period[0])


def _volume(times: np.ndarray, level: np.ndarray, duration_s: float) -> np.ndarray:
    """A level over time in 16 steps, changed 60 times a second from the note's start, each change over a millisecond."""
    frames = (times * VOLUME_HZ).astype(int)
    firsts = np.searchsorted(frames, np.arange(frames[-1] + 1))
    steps = np.ceil(level[firsts] * LOUDEST)[frames] / LOUDEST
    steps = np.where(times < duration_s, steps, 0.0)
    ramp = max(1, round(RAMP_S * SAMPLE_RATE))
    return np.convolve(steps, np.full(ramp, 1 / ramp))[: len(times)]


def _drum(note: Note, rng: np.random.Generator) -> np.ndarray:
    """A drum at its own length, whatever the note's: [samples]."""
    times = np.arange(round(DRUM_S[note.pitch] * SAMPLE_RATE)) / SAMPLE_RATE
    fall = np.exp(-4 * times / times[-1])
    if note.pitch == KICK:
        sweep = KICK_HZ[1] + (KICK_HZ[0] - KICK_HZ[1]) * np.exp(-times / KICK_SWEEP_S)
        wave = 1.6 * np.interp(np.cumsum(sweep) / SAMPLE_RATE % 1 * TABLE, np.arange(TABLE + 1), wavetable(None, 40))
    else:
        bits = rng.choice((-1.0, 1.0), len(times))
        wave = bits[(times * NOISE_HZ[note.pitch]).astype(int)]
    return wave * _volume(times, fall * (note.velocity / 127), times[-1])
