# SPDX-License-Identifier: Apache-2.0
"""`calibration.json`: how large the inputs of a checkpoint's Linears become, and on which music that was seen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from shared_protocol.errors import DemonError

SCHEMA = 1
SHIPPED = Path(__file__).parent / "calibrations" / "embedded.json"
"""Of the embedded checkpoint."""
NOTHING: Mapping[str, float] = {}
"""Largest inputs of a recipe that quantises none."""
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module. The same music gives the same file."""

    schema: int
    checkpoint: str
    """As the user named it."""
    checkpoint_hash: Hash
    """Of every file that shapes the sound."""
    music: dict[str, Hash]
    """Names of audio files, and SHA-256 of their bytes."""
    prompts: tuple[str, ...]
    denoise: tuple[float, ...]
    steps: int
    largest_inputs: dict[str, Annotated[float, Meta(ge=0)]]
    """Largest absolute input, by the Linear's module path in diffusers' transformer."""


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Readable JSON. Raises DemonError `E_OUTPUT`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{path} cannot be written: {error}") from error


def read_calibration(path: Path, *, checkpoint: str, checkpoint_hash: str, linears: Sequence[str]) -> Calibration:
    """The calibration of a checkpoint, with all the Linears in it that are to be quantised.

    checkpoint: for messages. Raises DemonError `E_CALIBRATION` for one that is missing, damaged, of another checkpoint or of
    fewer Linears, with the command that makes one.
    """
    how = f"run: {command(checkpoint)}"
    try:
        read = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError as error:
        raise no_calibration(path, checkpoint) from error
    except (OSError, msgspec.DecodeError) as error:
        raise DemonError("E_CALIBRATION", f"{path} cannot be read: {error}; {how}") from error
    if read.schema != SCHEMA:
        raise DemonError("E_CALIBRATION", f"{path} has schema {read.schema}, not {SCHEMA}; {how}")
    if read.checkpoint_hash != checkpoint_hash:
        raise DemonError(
            "E_CALIBRATION",
            f"{path} is of the checkpoint {read.checkpoint_hash[:12]}, not of {checkpoint_hash[:12]}; {how}",
        )
    if missing := [name for name in linears if name not in read.largest_inputs]:
        raise DemonError("E_CALIBRATION", f"{path} lacks {len(missing)} Linears, {missing[0]} among them; {how}")
    return read


def no_calibration(path: Path, checkpoint: str) -> DemonError:
    """That there is none."""
    return DemonError(
        "E_CALIBRATION", f"fp8 needs a calibration of {checkpoint}, and {path} is not there; run: {command(checkpoint)}"
    )


def command(checkpoint: str) -> str:
    """What makes a calibration."""
    return f"demon engines calibrate --checkpoint {shlex.quote(checkpoint)} MUSIC.flac ..."
