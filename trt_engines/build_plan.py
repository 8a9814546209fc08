# SPDX-License-Identifier: Apache-2.0
"""Which engines have to be built, and why: what is there and up to date stays. Needs neither TensorRT nor ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_protocol.errors import DemonError
from trt_engines.engine_folder import EngineFolder
from trt_engines.engine_kinds import EngineKind
from trt_engines.metadata import Machine, read_metadata

FIRST_FP8 = 89
"""The compute capability, times ten, of the first GPUs with FP8: Ada."""


@dataclass(frozen=True)
class Needed:
    """What is to be done for one engine. reason: in words, empty if it is up to date."""

    kind: EngineKind
    reason: str


def needed(
    folder: EngineFolder, kinds: Sequence[EngineKind], machine: Machine, *, is_forced: bool = False
) -> list[Needed]:
    """Which of the engines have to be built, and why.

    Raises DemonError: `E_CALIBRATION` if one needs a calibration that is not there, `E_FIELD` for FP8 on a GPU that has none.
    """
    for kind in kinds:
        _check_gpus(kind, machine)
        folder.calibration_hash(kind)
    return [Needed(kind, "asked for" if is_forced else _reason(folder, kind, machine)) for kind in kinds]


def check_disk(path: Path, needed_bytes: int) -> None:
    """Raise DemonError `E_DISK` unless so much is free where engines will lie."""
    there = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise DemonError(
            "E_DISK",
            f"{there} has {free / 1e9:.1f} GB free, and the engines need {needed_bytes / 1e9:.1f} GB; make room, build fewer, or "
            f"set XDG_DATA_HOME to another disk",
        )


def _reason(folder: EngineFolder, kind: EngineKind, machine: Machine) -> str:
    if not folder.has(kind):
        return "not built yet"
    try:
        built = read_metadata(folder.note(kind))
    except DemonError as error:
        return error.message
    engine = folder.engine(kind)
    # Its hash is for whoever loads it: here it would mean reading gigabytes for a table.
    if not engine.is_file() or engine.stat().st_size != built.engine_bytes:
        return f"{engine.name} is not what was built"
    if built.machine != machine:
        return (
            f"built for {built.machine.compute_capability} by {built.machine.library} {built.machine.library_version}"
        )
    return "; ".join(folder.differences(built, kind))


def _check_gpus(kind: EngineKind, machine: Machine) -> None:
    if kind.precision == "fp8":
        for name in machine.compute_capability.split(","):
            number = name.removeprefix("SM")
            if number.isdigit() and int(number) < FIRST_FP8:
                raise DemonError(
                    "E_FIELD", f"{name} has no FP8: that begins with SM{FIRST_FP8}; build for it with --precision mixed"
                )
