# SPDX-License-Identifier: Apache-2.0
"""Audio files in, audio files and receipts out. Whatever is written appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile

from shared_protocol.codec import CHANNELS, Floats
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE, MIN_RATE, is_valid_rate


def read_audio(path: Path) -> tuple[Floats, int]:
    """A file's audio `[2, N]` float32 and its rate; mono is played on both sides.

    Raises DemonError: `E_SOURCE_UNREADABLE`, `E_SOURCE_EMPTY`, `E_SOURCE_CHANNELS`, `E_SAMPLE_RATE`, `E_NOT_FINITE`.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise DemonError("E_SOURCE_UNREADABLE", f"{path}: {error}") from error
    if len(samples) == 0:
        raise DemonError("E_SOURCE_EMPTY", f"{path} holds no samples")
    if samples.shape[1] > CHANNELS:
        raise DemonError("E_SOURCE_CHANNELS", f"{path} has {samples.shape[1]} channels; mono and stereo are taken")
    if not is_valid_rate(rate):
        raise DemonError("E_SAMPLE_RATE", f"{path}: {rate} Hz is not a multiple of 25 from {MIN_RATE} to {MAX_RATE}")
    if not np.isfinite(samples).all():
        raise DemonError("E_NOT_FINITE", f"{path} holds NaN or infinity")
    return np.ascontiguousarray(np.broadcast_to(samples, (len(samples), CHANNELS)).T), rate


def check_folder(path: Path) -> None:
    """Raise DemonError `E_OUTPUT` now rather than after hours, if the folder of `path` cannot be written to."""
    if not os.access(path.parent, os.W_OK):
        raise DemonError("E_OUTPUT", f"{path.parent} is not a folder that can be written to")


def write_audio(path: Path, audio: Floats, rate: int) -> None:
    """Write `[2, N]` as a 32-bit float WAV. Raises DemonError `E_OUTPUT`."""
    _write_whole(path, lambda part: soundfile.write(part, audio.T, rate, subtype="FLOAT", format="WAV"))


def write_json(path: Path, content: msgspec.Struct | Mapping[str, Any]) -> None:
    """Write a struct, or what a mapping holds, as indented JSON. Raises DemonError `E_OUTPUT`."""
    _write_whole(
        path, lambda part: part.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    )


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    except (OSError, soundfile.SoundFileError) as error:
        raise DemonError("E_OUTPUT", f"{path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
