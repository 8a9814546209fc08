# SPDX-License-Identifier: Apache-2.0
"""Renders notes with fluidsynth: one process per soundfont, all pieces one after another.

Rendering one long score and cutting it afterwards loads each soundfont once and keeps all takes sample-aligned. There is
no reverb and no chorus here: rooms are added by `effects`, where they are known.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np

from training.compose import DRUMS, Piece
from training.instruments import Programs

SAMPLE_RATE = 48000
RENDERING = 1
"""Part of what renders are known by. Raise it when this module or `effects` makes the same takes sound different."""
TICKS_PER_SECOND = 960  # 480 ticks per beat at 120 beats per minute
DRUM_CHANNEL = 9
GAP_S = 0.2  # silence between pieces; all sound is cut off at its start
PANS = (74, 44, 96, 60)  # melody, chords, counter, bass: MIDI controller 10
ALL_SOUND_OFF, PAN = 120, 10
LOUDEST = 0.98  # of full scale; a louder piece is turned down as a whole


def score_to_midi(pieces: Sequence[Piece], programs: Sequence[Programs], piece_s: float) -> mido.MidiFile:
    """All pieces in one MIDI file, piece i starting at i * (piece_s + GAP_S) with its own programs."""
    events: list[tuple[float, int, mido.Message]] = []
    for index, (piece, voices) in enumerate(zip(pieces, programs, strict=True)):
        origin_s = index * (piece_s + GAP_S)
        for channel, (program, pan) in enumerate(zip(voices, PANS, strict=True)):
            events.append((origin_s, 0, mido.Message("program_change", channel=channel, program=program)))
            events.append((origin_s, 0, mido.Message("control_change", channel=channel, control=PAN, value=pan)))
        for channel in (*range(len(PANS)), DRUM_CHANNEL):
            silence = mido.Message("control_change", channel=channel, control=ALL_SOUND_OFF, value=0)
            events.append((origin_s + piece_s, 0, silence))
        for note in piece.notes:
            channel = DRUM_CHANNEL if note.voice == DRUMS else note.voice
            on = mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
            off = mido.Message("note_off", channel=channel, note=note.pitch)
            events.append((origin_s + note.start_s, 2, on))
            events.append((origin_s + note.start_s + note.duration_s, 1, off))
    track = mido.MidiTrack()
    now = 0
    for time_s, _, message in sorted(events, key=lambda event: event[:2]):
        tick = round(time_s * TICKS_PER_SECOND)
        track.append(message.copy(time=tick - now))
        now = tick
    score = mido.MidiFile(ticks_per_beat=480)
    score.tracks.append(track)
    return score


def render_each(pieces: Sequence[Piece], programs: Sequence[Programs], soundfont: Path, piece_s: float) -> np.ndarray:
    """Each piece with its own programs: int16 [pieces, samples, 2] at 48 kHz, never clipped.

    Raises FileNotFoundError without fluidsynth or the soundfont, CalledProcessError if fluidsynth fails.
    """
    if not soundfont.exists():
        raise FileNotFoundError(soundfont)
    with tempfile.TemporaryDirectory() as folder:
        midi_path, audio_path = Path(folder) / "score.mid", Path(folder) / "score.raw"
        score_to_midi(pieces, programs, piece_s).save(midi_path)
        command = ["fluidsynth", "-ni", "-q", "-r", str(SAMPLE_RATE), "-g", "0.6", "-R", "0", "-C", "0"]
        command += ["-o", "synth.cpu-cores=1", "-o", "synth.dynamic-sample-loading=1"]
        command += ["-F", str(audio_path), "-T", "raw", "-O", "float", str(soundfont), str(midi_path)]
        subprocess.run(command, check=True, capture_output=True)
        audio = np.fromfile(audio_path, np.float32).reshape(-1, 2)  # far cheaper than a pipe
    slot = round((piece_s + GAP_S) * SAMPLE_RATE)
    samples = round(piece_s * SAMPLE_RATE)
    if len(audio) < slot * len(pieces):
        audio = np.pad(audio, ((0, slot * len(pieces) - len(audio)), (0, 0)))
    return np.stack([to_int16(audio[i * slot : i * slot + samples]) for i in range(len(pieces))])


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Floating-point audio of any shape as int16, turned down if its peak would clip."""
    peak = float(np.abs(audio).max(initial=0.0))
    return np.round(audio * (32767 * min(1.0, LOUDEST / max(peak, 1e-9)))).astype(np.int16)
