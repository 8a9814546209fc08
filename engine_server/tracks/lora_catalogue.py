# SPDX-License-Identifier: Apache-2.0
"""The LoRAs that tracks may name by content hash: those that come with the engine, and those in the folders of its owner."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from engine_server.folders import data_folder
from engine_server.model.backends import ONE_MIX
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.model.lora import linear_shapes
from engine_server.model.lora_library import SHIPPED, LoraLibrary, LoraState
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.loras")
NAME_BYTES = 128
MOST = 256


def user_folder() -> Path:
    """Where a musician puts LoRA files: `$XDG_DATA_HOME/demon-bridge/loras`."""
    return data_folder() / "loras"


def offers_loras(model: str, folders: Sequence[Path]) -> bool:
    """Whether tracks find LoRA files to name: in folders, or those that come with the engine, which fit `embedded`. No file is
    opened, so that one which fits another checkpoint counts, too."""
    looked_in = (SHIPPED, *folders) if model == EMBEDDED else folders
    return any(path.is_file() for folder in looked_in for path in folder.rglob("*.safetensors"))


class LoraCatalogue:
    """LoRA files by content hash, read into the decoder's bank when a track first names them. One thread.

    A file that does not fit the checkpoint is left out. One that was read stays until the engine ends: a row that does not
    name it has the strength 0 for it, which changes no bit.
    """

    def __init__(self, checkpoint: Checkpoint, folders: Sequence[Path] = ()) -> None:
        self._library = LoraLibrary(checkpoint.adapters, linear_shapes(checkpoint.transformer))
        self._refusal = ONE_MIX if checkpoint.backend.startswith("tensorrt") else None
        self._folders = tuple(folders)
        self._ids: dict[str, str] = {}
        self._refused: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Look through the folders again."""
        for folder in (SHIPPED, *self._folders):
            if folder.is_dir():
                _, errors = self._library.register_directory(folder)
                self._tell(errors, is_ours=folder == SHIPPED)
        for entry in self._library.entries():
            if entry.id in self._ids.values():
                continue
            try:
                self._ids.setdefault(self._library.content_hash(entry.id), entry.id)
            except (DemonError, OSError) as error:
                log.warning("%s cannot be read: %s", entry.path, error)

    def names(self) -> dict[str, str]:
        """Names by hash, at most 256, for a list to choose from."""
        cut = ((digest, name.encode()[:NAME_BYTES].decode(errors="ignore")) for digest, name in self._ids.items())
        return dict(list(cut)[:MOST])

    def find(self, name_or_hash: str) -> str:
        """The hash of a LoRA by its name, or by its hash or the beginning of it. Raises DemonError `E_LORA`."""
        named = [digest for digest, name in self._ids.items() if name == name_or_hash]
        begun = [digest for digest in self._ids if digest.startswith(name_or_hash.lower())] if name_or_hash else []
        found = named or begun
        if len(found) != 1:
            known = ", ".join(self._ids.values()) or "none"
            raise DemonError("E_LORA", f"{name_or_hash!r} names {len(found)} LoRAs; known are: {known}")
        return found[0]

    def enable(self, digest: str) -> None:
        """Make a LoRA usable. Raises DemonError `E_LORA` if no file of the folders has that content, or tracks can have none."""
        if self._refusal is not None:
            raise DemonError("E_LORA", f"{digest}: {self._refusal}")
        if digest not in self._ids:
            self.refresh()
        if digest not in self._ids:
            folder = self._folders[0] if self._folders else SHIPPED
            raise DemonError("E_LORA", f"{digest}: no LoRA here has that content; put its file into {folder}")
        lora = self._ids[digest]
        if self._is_enabled(lora):
            return
        try:
            self._library.enable(lora, 0.0)
        except (DemonError, OSError) as error:
            raise DemonError("E_LORA", f"{digest}: {lora} cannot be read: {error}") from error
        entry = next(entry for entry in self._library.entries() if entry.id == lora)
        if entry.content_hash != digest:  # the file was replaced since it was listed
            self._library.remove(lora)
            del self._ids[digest]
            raise DemonError("E_LORA", f"{digest}: the file {entry.path} has other contents now")

    def strengths(self, amounts: Sequence[tuple[str, float]]) -> Tensor | None:
        """Strengths `[A]` of a row from (hash, strength) of enabled LoRAs; one that comes twice counts twice. None for none."""
        row: dict[str, float] = {}
        for digest, amount in amounts:
            row[self._ids[digest]] = row.get(self._ids[digest], 0.0) + amount
        if not any(row.values()):
            return None
        return self._library.strengths(row)

    def _is_enabled(self, lora: str) -> bool:
        return any(entry.id == lora and entry.state is LoraState.ENABLED for entry in self._library.entries())

    def _tell(self, errors: Sequence[DemonError], *, is_ours: bool) -> None:
        """Log what was left out, once; ours fit the embedded checkpoint only, which is nobody's fault."""
        for error in errors:
            if not is_ours and error.message not in self._refused:
                log.warning("a LoRA is left out: %s", error)
            self._refused.add(error.message)
