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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_server.folders import data_folder
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.model.recipe_linears import quantized_linears
from engine_server.model.recipes import RECIPES, Recipe
from shared_protocol.errors import DemonError
from trt_engines.calibration import NOTHING, SHIPPED, no_calibration, read_calibration
from trt_engines.engine_kinds import EngineKind
from trt_engines.metadata import Metadata, differences, write_metadata
from trt_engines.unfinished import sweep, unfinished

ENGINE, METADATA, ONNX, CALIBRATION = "engine.plan", "metadata.json", "_onnx", "calibration.json"
HASH_DIGITS = 12


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

    def differences(self, built: Metadata, kind: EngineKind) -> list[str]:
        """In words, why a built engine is not one of this kind of this checkpoint, wherever it is to run; empty if it is.

        Raises as `calibration_hash`.
        """
        return differences(
            built, kind, checkpoint_hash=self.checkpoint_hash, calibration_hash=self.calibration_hash(kind)
        )

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path]:
        """A folder on the same disk in which to build; see `unfinished`. Raises DemonError `E_OUTPUT` if none can be made."""
        with contextlib.ExitStack() as stack:
            with self._written():
                self.path.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(unfinished(self.path))
            yield Path(folder)

    def publish(self, kind: EngineKind, built: Path, metadata: Metadata) -> None:
        """Put a folder of `unfinished`, in which the engine's file lies, in the place of what was there.

        Raises DemonError `E_OUTPUT`, and then what was there is still there.
        """
        place = self.path / kind.name
        with self._written(), unfinished(self.path) as old:
            write_metadata(built / METADATA, metadata)
            _flush(built)
            before = Path(old) / kind.name
            if place.exists():
                place.rename(before)
            try:
                built.rename(place)
            except BaseException:
                if before.exists():
                    before.rename(place)
                raise

    def sweep(self) -> list[str]:
        """See `sweep`, here and among the graphs."""
        return sweep(self.path) + sweep(self.onnx)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DemonError("E_OUTPUT", f"{self.path} cannot be written: {error}") from error


def engines_root() -> Path:
    """`engines` in the user's data folder."""
    return data_folder() / "engines"


def file_hash(path: Path) -> str:
    """SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """To the disk, so that a name never stands for what a power cut took."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
