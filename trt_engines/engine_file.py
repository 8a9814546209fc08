# SPDX-License-Identifier: Apache-2.0
"""An engine that someone names by its file: everything that can be known of it before TensorRT sees it.

`EngineFolder` is for engines by kind, where `demon engines build` puts them. Here the file is given; its note says what it is.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from engine_server.model.recipes import Precision
from shared_protocol.errors import DemonError
from trt_engines.engine_folder import ENGINE, METADATA
from trt_engines.engine_kinds import DEFAULT_PRECISION, DURATIONS_S, Component, build_command
from trt_engines.metadata import Machine, Metadata, other_machine, read_metadata, unfit
from trt_engines.profiles import Span


@dataclass(frozen=True)
class Wanted:
    """Which engine of which checkpoint. checkpoint: as the user named it, for commands in messages."""

    component: Component
    checkpoint: str
    checkpoint_hash: str


@dataclass(frozen=True)
class EngineFile:
    """An engine's file and its note, which says that it is of the wanted checkpoint."""

    path: Path
    wanted: Wanted
    note: Metadata

    def span(self, name: str, axis: int) -> Span:
        """Sizes that an input takes. Raises DemonError `E_ENGINE_FILE` if the note tells of no such axis."""
        try:
            return Span(*self.note.inputs[name][axis])
        except (KeyError, DemonError) as error:
            raise self._not_what_was_built(f"its note has no sizes for axis {axis} of {name}") from error

    def command(self, *, least_s: float = 0.0, is_refittable: bool | None = None) -> str:
        """What builds it anew, or one like it for at least so many seconds, or one that hears LoRAs."""
        return _command(self.wanted, self.note, least_s, is_refittable)

    def check(self, machine: Machine) -> None:
        """Raise DemonError `E_ENGINE_STALE` if it is for another machine, or by another TensorRT, with what builds it."""
        if why := other_machine(self.note, machine):
            raise DemonError("E_ENGINE_STALE", f"{self.path}: {'; '.join(why)}. Run: {self.command()}")

    def check_length(self) -> None:
        """Raise DemonError `E_ENGINE_FILE` if it is not as long as what was built."""
        try:
            length = self.path.stat().st_size
        except OSError as error:
            raise self._not_what_was_built(str(error)) from error
        if length != self.note.engine_bytes:
            raise self._not_what_was_built(f"it has {length} bytes, and {self.note.engine_bytes} were built")

    def read(self) -> bytes:
        """The engine itself, every byte as it was built. Raises DemonError `E_ENGINE_FILE`."""
        self.check_length()
        try:
            plan = self.path.read_bytes()
        except OSError as error:
            raise self._not_what_was_built(str(error)) from error
        if hashlib.sha256(plan).hexdigest() != self.note.engine_hash:
            raise self._not_what_was_built("its bytes are others")
        return plan

    def _not_what_was_built(self, why: str) -> DemonError:
        return DemonError(
            "E_ENGINE_FILE", f"{self.path} is not what was built: {why}. Run: {self.command()} --force-rebuild"
        )


def find_engine(path: str | Path, wanted: Wanted) -> EngineFile:
    """The engine at a path, which is its file or the folder that it was built into. Nothing of it is loaded.

    Raises DemonError, each with the command that builds a right one: `E_ENGINE_NOT_BUILT` if there is none, `E_ENGINE_FILE` if
    its note is missing or damaged, `E_ENGINE_STALE` if it is another component, or of another checkpoint or recipe.
    """
    given = Path(path).expanduser()
    file = given / ENGINE if given.is_dir() else given
    if not file.is_file():
        raise DemonError("E_ENGINE_NOT_BUILT", f"there is no engine at {given}; run: {_command(wanted)}")
    try:
        note = read_metadata(file.with_name(METADATA))
    except DemonError as error:
        raise DemonError(error.code, f"{error.message}. Run: {_command(wanted)} --force-rebuild") from error
    if why := unfit(note, component=wanted.component, checkpoint_hash=wanted.checkpoint_hash):
        own = note if note.component == wanted.component else None
        raise DemonError("E_ENGINE_STALE", f"{file}: {'; '.join(why)}. Run: {_command(wanted, own)}")
    return EngineFile(file, wanted, note)


def _command(
    wanted: Wanted, note: Metadata | None = None, least_s: float = 0.0, is_refittable: bool | None = None
) -> str:
    precision: Precision = DEFAULT_PRECISION if note is None else note.precision
    length = None if note is None else re.search(r"_(\d+)s$", note.name)
    wish = max(least_s, DURATIONS_S[0] if length is None else int(length[1]))
    seconds = next((one for one in DURATIONS_S if one >= wish), DURATIONS_S[-1])
    if is_refittable is None:
        is_refittable = note is not None and note.is_refittable
    return build_command(wanted.checkpoint, wanted.component, seconds, precision, is_refittable=is_refittable)
