# SPDX-License-Identifier: Apache-2.0
"""Renders notes with fluidsynth: one process per soundfont and family, all pieces one after another.

Rendering one long score and cutting it afterwards loads each soundfont once and keeps all families sample-aligned.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np

from training.compose import DRUMS, Note
from training.instruments import Family

SAMPLE_RATE = 48000
TICKS_PER_SECOND = 960  # 480 ticks per beat at 120 beats per minute
DRUM_CHANNEL = 9
TAIL_S = 2.0  # silence after each piece, for releases
PANS = (74, 44, 96, 60)  # melody, chords, counter, bass: MIDI controller 10


def score_to_midi(pieces: Sequence[Sequence[Note]], family: Family, piece_s: float) -> mido.MidiFile:
    """All pieces in one MIDI file, piece i starting at i * (piece_s + TAIL_S)."""
    events: list[tuple[float, int, mido.Message]] = []
    for index, notes in enumerate(pieces):
        origin_s = index * (piece_s + TAIL_S)
        for note in notes:
            channel = DRUM_CHANNEL if note.voice == DRUMS else note.voice
            on = mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
            off = mido.Message("note_off", channel=channel, note=note.pitch)
            events.append((origin_s + note.start_s, 1, on))
            events.append((origin_s + note.start_s + note.duration_s, 0, off))
    track = mido.MidiTrack()
    for channel, (program, pan) in enumerate(zip(family.programs, PANS, strict=True)):
        track.append(mido.Message("program_change", channel=channel, program=program))
        track.append(mido.Message("control_change", channel=channel, control=10, value=pan))
    now = 0
    for time_s, _, message in sorted(events, key=lambda event: event[:2]):
        tick = round(time_s * TICKS_PER_SECOND)
        track.append(message.copy(time=tick - now))
        now = tick
    score = mido.MidiFile(ticks_per_beat=480)
    score.tracks.append(track)
    return score


def render(pieces: Sequence[Sequence[Note]], family: Family, soundfont: Path, piece_s: float) -> np.ndarray:
    """All pieces as one family: int16 [pieces, samples, 2] at 48 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        midi_path = Path(folder) / "score.mid"
        score_to_midi(pieces, family, piece_s).save(midi_path)
        command = ["fluidsynth", "-ni", "-q", "-r", str(SAMPLE_RATE), "-g", "0.6", "-o", "synth.cpu-cores=1"]
        command += ["-F", "-", "-T", "raw", "-O", "s16", str(soundfont), str(midi_path)]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
    audio = np.frombuffer(raw, np.int16).reshape(-1, 2)
    slot = round((piece_s + TAIL_S) * SAMPLE_RATE)
    samples = round(piece_s * SAMPLE_RATE)
    audio = np.pad(audio, ((0, max(0, slot * len(pieces) - len(audio))), (0, 0)))
    return np.stack([audio[i * slot : i * slot + samples] for i in range(len(pieces))])
