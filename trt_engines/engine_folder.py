# SPDX-License-Identifier: Apache-2.0
"""Where engines lie: a folder for each under the user's data, which appears whole or not at all.

```
engines/<checkpoint hash>/calibration.json
engines/<checkpoint hash>/_onnx/decoder_mixed.onnx
engines/<checkpoint hash>/decoder_mixed_refit_b8_60s/engine.plan, metadata.json
```
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engine_server.folders import data_folder
from engine_server.model.checkpoint_files import EMBEDDED
from shared_protocol.errors import DemonError
from trt_engines.calibration import SHIPPED, no_calibration, read_calibration
from trt_engines.engine_kinds import DURATIONS_S, EngineKind, build_command
from trt_engines.metadata import Machine, Metadata, differences, read_metadata, write_metadata
from trt_engines.recipe_linears import NOTHING, quantized_linears
from trt_engines.recipes import RECIPES, Recipe

ENGINE, METADATA, ONNX, CALIBRATION = "engine.plan", "metadata.json", "_onnx", "calibration.json"
HASH_DIGITS = 12
UNFINISHED = ".building-"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineFolder:
    """The engines of one checkpoint. Nothing is created before something is published."""

    root: Path
    checkpoint: str
    """As the user named it, for commands in messages."""
    checkpoint_hash: str

    @property
    def path(self) -> Path:
        """Of this checkpoint's engines."""
        return self.root / self.checkpoint_hash[:HASH_DIGITS]

    @property
    def onnx(self) -> Path:
        """Of exported graphs."""
        return self.path / ONNX

    def engine(self, kind: EngineKind) -> Path:
        """The engine's file, if it was built."""
        return self.path / kind.name / ENGINE

    def note(self, kind: EngineKind) -> Path:
        """The note beside it."""
        return self.path / kind.name / METADATA

    def has(self, kind: EngineKind) -> bool:
        """Whether one was built to the end, for whatever machine."""
        return self.note(kind).is_file()

    @property
    def own_calibration(self) -> Path:
        """The user's, if there is one."""
        return self.path / CALIBRATION

    @property
    def calibration(self) -> Path:
        """The user's, or else the one that comes with the embedded checkpoint."""
        own = self.own_calibration
        return SHIPPED if self.checkpoint == EMBEDDED and not own.is_file() else own

    def calibration_hash(self, kind: EngineKind) -> str | None:
        """Of the calibration's file, None for an engine that needs none.

        Raises DemonError `E_CALIBRATION` if there is none, with the command that makes one.
        """
        if kind.component != "decoder" or not RECIPES[kind.precision].needs_calibration:
            return None
        if not self.calibration.is_file():
            raise no_calibration(self.calibration, self.checkpoint)
        return file_hash(self.calibration)

    def largest_inputs(self, transformer: Any, recipe: Recipe) -> Mapping[str, float]:
        """What a recipe needs to know of a transformer's activations. Raises DemonError as `read_calibration`."""
        if not recipe.needs_calibration:
            return NOTHING
        linears = quantized_linears(transformer, recipe)
        return read_calibration(
            self.calibration, checkpoint=self.checkpoint, checkpoint_hash=self.checkpoint_hash, linears=linears
        ).largest_inputs

    def look(self, kind: EngineKind, machine: Machine) -> Metadata:
        """The note of an engine that is there, whole by its length, and for this machine. Reads nothing of the engine itself.

        Raises DemonError: `E_ENGINE_NOT_BUILT`, `E_ENGINE_FILE` for one that is damaged, `E_ENGINE_STALE` for one of another
        machine, checkpoint, calibration or shape, each with the command that builds it; `E_CALIBRATION` as `calibration_hash`.
        """
        if not self.has(kind):
            raise DemonError("E_ENGINE_NOT_BUILT", f"there is no {kind.name} yet; run: {self.command(kind)}")
        try:
            built = read_metadata(self.note(kind))
        except DemonError as error:
            raise DemonError(error.code, f"{error.message}. Run: {self.command(kind)} --force-rebuild") from error
        if why := self.differences(built, kind, machine):
            raise DemonError("E_ENGINE_STALE", f"{kind.name}: {'; '.join(why)}. Run: {self.command(kind)}")
        engine = self.engine(kind)
        if not engine.is_file() or engine.stat().st_size != built.engine_bytes:
            raise self._not_what_was_built(kind)
        return built

    def check(self, kind: EngineKind, machine: Machine) -> Metadata:
        """As `look`, with every byte of the engine as it was built."""
        built = self.look(kind, machine)
        if file_hash(self.engine(kind)) != built.engine_hash:
            raise self._not_what_was_built(kind)
        return built

    def _not_what_was_built(self, kind: EngineKind) -> DemonError:
        return DemonError(
            "E_ENGINE_FILE",
            f"{self.engine(kind)} is not what was built; run: {self.command(kind)} --force-rebuild",
        )

    def differences(self, built: Metadata, kind: EngineKind, machine: Machine) -> list[str]:
        """In words, why a built engine is not one of this kind for a machine; empty if it is. Raises as `calibration_hash`."""
        return differences(
            built,
            kind,
            machine=machine,
            checkpoint_hash=self.checkpoint_hash,
            calibration_hash=self.calibration_hash(kind),
        )

    def command(self, kind: EngineKind) -> str:
        """What builds it."""
        seconds = max(DURATIONS_S[0], round(kind.duration_s))
        return build_command(self.checkpoint, kind.component, seconds, kind.precision)

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path]:
        """A folder on the same disk in which to build. It is gone afterwards, however that ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._temporary() as folder:
            yield Path(folder)

    def publish(self, kind: EngineKind, built: Path, metadata: Metadata) -> None:
        """Put a folder of `unfinished`, in which the engine's file lies, in the place of what was there."""
        write_metadata(built / METADATA, metadata)
        _flush(built)
        place = self.path / kind.name
        with self._temporary() as old:
            if place.exists():
                place.rename(Path(old) / kind.name)
            built.rename(place)

    def sweep(self) -> list[str]:
        """Remove what builds that were killed have left, not what another process is building; the names."""
        left = sorted(one for one in self.path.glob(f"{UNFINISHED}*") if not _is_in_use(one))
        for one in left:
            shutil.rmtree(one, ignore_errors=True)
        return [one.name for one in left]

    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}{os.getpid()}-", dir=self.path)


def engines_root() -> Path:
    """`engines` in the user's data folder."""
    return data_folder() / "engines"


def file_hash(path: Path) -> str:
    """SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _is_in_use(unfinished: Path) -> bool:
    process, _, _ = unfinished.name.removeprefix(UNFINISHED).partition("-")
    return process.isdigit() and psutil.pid_exists(int(process))


def _flush(folder: Path) -> None:
    """To the disk, so that a name never stands for what a power cut took."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
