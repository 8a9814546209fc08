# SPDX-License-Identifier: Apache-2.0
"""The LoRAs that a server knows: their ids, which of them are on, and how strong they are unless a track says otherwise."""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from engine_server.model.lora import AdapterBank, Shapes
from engine_server.model.lora_files import FOLDER_FILES, LoraHeader, content_hash, lora_file, read_header, read_lora
from engine_server.model.lora_mix import Mix
from shared_protocol.errors import DemonError

SHIPPED = Path(__file__).parents[1] / "assets" / "loras"
"""LoRAs for the embedded checkpoint that come with the engine; see `shipped_loras`."""
HASH_DIGITS = 8
"""Digits of the content hash in an id whose name was taken."""


def shipped_loras() -> dict[str, Path]:
    """The engine's own LoRAs by id."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}


class LoraState(enum.Enum):
    """Whether the forward can use a LoRA."""

    REGISTERED = "registered"
    """Known from its header; its weights are on disk only."""
    ENABLED = "enabled"
    """Its weights are in the bank, at a place among the strengths."""


@dataclass(frozen=True)
class LoraEntry:
    """What is known of a LoRA, for lists and receipts."""

    id: str
    path: Path
    state: LoraState
    strength: float
    """The default strength: as last set, and 1 before it was ever enabled."""
    rank: int
    place: int | None
    """Its column among the strengths while it is enabled."""
    content_hash: str | None
    """SHA-256 of the file (see `lora_files.content_hash`); None until something has read the whole of it."""
    metadata: Mapping[str, Any]
    """What the file says of itself, overridden by its sidecar `<stem>.metadata.json`; or `trigger_words` from `.trigger.txt`."""


@dataclass
class _Known:
    header: LoraHeader
    metadata: Mapping[str, Any]
    strength: float = 1.0
    place: int | None = None
    content_hash: str | None = None


class LoraLibrary:
    """LoRA files by id, in front of an `AdapterBank`. Any thread may call anything.

    Files are read on the caller's thread with no lock held, and what was read is published at the end: nobody else waits,
    strengths can be read and set meanwhile. A strength here is the default of rows that name none of their own. Paths are for
    the owner of the machine to give, never for clients.

    Errors are DemonErrors: those of `lora_files`, `E_NO_LORA` (unknown id), `E_LORA_STATE` (not enabled), `E_LORA_STRENGTH`.
    """

    def __init__(self, bank: AdapterBank, target_shapes: Shapes) -> None:
        self._bank = bank
        self._targets = dict(target_shapes)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def register(self, path: Path) -> str:
        """Make a LoRA known by its header and return its id. `path` may be the id of a shipped LoRA, where no file has that path.

        The id is the file's stem, or the folder's name for a PEFT or diffusers folder. A file that is known already, and
        another with the same contents, keep their id. If the name is taken by other contents, the id gets the first digits of
        the content hash, as in `choir-1f0c22ab`; only then is a whole file read.
        """
        file = lora_file(_found(path.expanduser())).resolve()
        header = read_header(file, self._targets)
        added = _Known(header, {**header.metadata, **_sidecar(file)})
        name = file.parent.name if file.name in FOLDER_FILES else file.stem
        with self._lock:
            if same := [lora for lora, known in self._known.items() if known.header.path == file]:
                return same[0]
            namesake = self._known.setdefault(name, added)
        if namesake is added:
            return name
        if _hash(namesake) == _hash(added):
            return name
        distinct = f"{name}-{_hash(added)[:HASH_DIGITS]}"
        with self._lock:
            self._known.setdefault(distinct, added)
        return distinct

    def register_directory(self, folder: Path, *, recursive: bool = True) -> tuple[list[str], list[DemonError]]:
        """Register every safetensors file of a folder, in order of path; a file that is no LoRA for this model stops nothing.

        Returns the ids, and the errors of files that were left out. Raises DemonError `E_LORA_FILE` if there is no folder.
        """
        folder = folder.expanduser()
        if not folder.is_dir():
            raise DemonError("E_LORA_FILE", f"there is no folder {folder}")
        ids: list[str] = []
        errors: list[DemonError] = []
        found = folder.rglob("*.safetensors") if recursive else folder.glob("*.safetensors")
        for file in sorted(path for path in found if not path.name.startswith(".")):
            try:
                ids.append(self.register(file))
            except DemonError as error:
                errors.append(error.with_traceback(None))  # whose frames would hold what called this
        return list(dict.fromkeys(ids)), errors

    def enable(self, lora: str, strength: float = 1.0) -> None:
        """Read a LoRA's weights into the bank at this strength. One that is enabled only changes its strength."""
        _check_strength(lora, strength)
        with self._lock:
            known = self._look_up(lora)
            if known.place is not None:
                known.strength = strength
                return
        read = read_lora(known.header.path, self._targets)
        place = self._bank.add(read.factors)
        with self._lock:
            is_known = self._known.get(lora) is known
            known.strength = strength
            if is_known and known.place is None:
                known.place, known.content_hash = place, read.content_hash
                return
        self._bank.remove(place)  # somebody else has enabled it in the meantime, or removed it
        if not is_known:
            raise DemonError("E_NO_LORA", f"LoRA {lora} was removed while it was being read")

    def set_strength(self, lora: str, strength: float) -> None:
        """Set the default strength of an enabled LoRA: any finite number; 0 is off and exact, useful are 0 to 2."""
        _check_strength(lora, strength)
        with self._lock:
            self._enabled(lora)[0].strength = strength

    def disable(self, lora: str) -> None:
        """Take a LoRA's weights out of the bank; it stays known, with its strength. Nothing happens if it is not enabled."""
        with self._lock:
            self._unload(self._look_up(lora))

    def remove(self, lora: str) -> None:
        """Disable a LoRA and forget it. Its file stays."""
        with self._lock:
            self._unload(self._look_up(lora))
            del self._known[lora]

    def content_hash(self, lora: str) -> str:
        """The SHA-256 that names a LoRA in projects and receipts. Reads the whole file the first time."""
        with self._lock:
            known = self._look_up(lora)
        return _hash(known)

    def entries(self) -> list[LoraEntry]:
        """All LoRAs, in the order in which they were registered."""
        with self._lock:
            return [
                LoraEntry(
                    lora,
                    known.header.path,
                    LoraState.REGISTERED if known.place is None else LoraState.ENABLED,
                    known.strength,
                    known.header.rank,
                    known.place,
                    known.content_hash,
                    known.metadata,
                )
                for lora, known in self._known.items()
            ]

    def strengths(self, row: Mapping[str, float] | None = None) -> Tensor:
        """Strengths `[A]` float32 of one row, on the host, for the bank as it is now: the row's own by id, else the defaults.

        Raises `E_NO_LORA` and `E_LORA_STATE` for a row that names a LoRA which is unknown or not enabled.
        """
        with self._lock:
            by_place = {known.place: known.strength for known in self._known.values() if known.place is not None}
            for lora, strength in (row or {}).items():
                _check_strength(lora, strength)
                by_place[self._enabled(lora)[1]] = strength
            return self._bank.strengths(by_place)

    def mix(self) -> Mix:
        """The bank as it is now, with the default strengths; a LoRA that is still being read is silent."""
        with self._lock:
            held = self._bank.snapshot
            by_place = {known.place: known.strength for known in self._known.values() if known.place is not None}
            return Mix(held, held.strengths(by_place))

    def _look_up(self, lora: str) -> _Known:
        if lora not in self._known:
            known = ", ".join(self._known) or "none"
            raise DemonError("E_NO_LORA", f"there is no LoRA {lora}; known are: {known}")
        return self._known[lora]

    def _enabled(self, lora: str) -> tuple[_Known, int]:
        known = self._look_up(lora)
        if known.place is None:
            raise DemonError("E_LORA_STATE", f"LoRA {lora} is not enabled, so it has no strength")
        return known, known.place

    def _unload(self, known: _Known) -> None:
        if known.place is not None:
            self._bank.remove(known.place)
            known.place = None


def _found(path: Path) -> Path:
    """The path, or the shipped LoRA's whose id it is."""
    return path if path.exists() else shipped_loras().get(str(path), path)


def _hash(known: _Known) -> str:
    if known.content_hash is None:
        known.content_hash = content_hash(known.header)
    return known.content_hash


def _check_strength(lora: str, strength: float) -> None:
    if not math.isfinite(strength):
        raise DemonError("E_LORA_STRENGTH", f"the strength of LoRA {lora} must be a finite number, not {strength}")


def _sidecar(file: Path) -> dict[str, Any]:
    """What lies beside a LoRA: `<stem>.metadata.json`, or else the words of `<stem>.trigger.txt` as `trigger_words`."""
    metadata, trigger = file.with_suffix(".metadata.json"), file.with_suffix(".trigger.txt")
    try:
        if metadata.is_file():
            return msgspec.json.decode(metadata.read_bytes(), type=dict[str, Any])
        if trigger.is_file():
            return {"trigger_words": trigger.read_text(encoding="utf-8").strip()}
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DemonError("E_LORA_FILE", f"what lies beside {file} cannot be read: {error}") from error
    return {}
