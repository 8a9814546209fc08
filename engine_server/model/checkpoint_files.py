# SPDX-License-Identifier: Apache-2.0
"""A checkpoint on disk, before any weight of it is read: its layout, its settings and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine_server.diffusion.schedule import MAX_STEPS
from engine_server.model.hub import checkpoint_folder, companions_folder
from engine_server.model.layouts import TOKENIZERS, Layout, read_layout
from shared_protocol.errors import DemonError

EMBEDDED = "embedded"
ASSETS = Path(__file__).parents[1] / "assets"
CODE_FRAMES = 5
"""Latent frames per code of the 5 Hz tokenizer."""


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default spans of a window in frames: past, hop and lookahead, and the crossfade between hops."""

    hop: Annotated[int, Meta(ge=2, le=250)] = 50
    past: Annotated[int, Meta(ge=0, le=5000)] = 100
    lookahead: Annotated[int, Meta(ge=2, le=250)] = 50
    crossfade: Annotated[int, Meta(ge=0, le=250)] = 10

    @property
    def window(self) -> int:
        """What the model sees for a hop."""
        return self.past + self.hop + self.lookahead


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`demon.json` of a checkpoint folder; its defaults suit ACE-Step v1.5 turbo."""

    cover_context: Literal["raw", "tokenizer"] = "tokenizer"
    """What the decoder sees as a cover's context: raw codec latents, or the 5 Hz tokenizer's hints."""
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 8
    shift: Annotated[float, Meta(gt=0.0, le=20.0)] = 3.0
    condition_tokens: Annotated[int, Meta(ge=8, le=4096)] = 256
    """Length that conditions are padded to."""
    geometry: Geometry = Geometry()
    dcw: bool = True
    """Whether a `Session` corrects generations in wavelet bands (`DcwSettings`) where nothing is said of it; tracks take what
    the lanes `dcw_*` say, whose default is none. The correction moves each step away from the model's estimate. The reference
    engine applies it to ACE-Step turbo; where an estimate is rough, as `embedded`'s is, it takes the notes away."""
    timbre_cls_token: bool | None = None
    """Whether the timbre encoder reads its learned token before a clip. None: if decoder and condition differ in width (XL)."""

    def __post_init__(self) -> None:
        spans = (self.geometry.hop, self.geometry.past, self.geometry.lookahead)
        if self.cover_context == "tokenizer" and any(span % (2 * CODE_FRAMES) for span in spans):
            raise ValueError(
                f"with the tokenizer, hop, past and lookahead must be multiples of {2 * CODE_FRAMES} frames"
            )


TURBO_SETTINGS = Settings()
UNDISTILLED_SETTINGS = Settings(steps=50, shift=1.0, dcw=False)
"""For base and sft checkpoints, which were not distilled to few steps."""


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint that was found. name: as the user named it."""

    name: str
    layout: Layout

    @property
    def local(self) -> str:
        """Its name without the way to it, which differs from machine to machine."""
        if Path(self.name).expanduser().is_dir():
            return self.layout.folder.resolve().name
        return self.name.rstrip("/").rpartition("/")[2]

    @property
    def is_turbo(self) -> bool:
        """Distilled to few steps and to no guidance."""
        return bool(self.layout.parts["transformer"].config.get("is_turbo", False))

    @cached_property
    def settings(self) -> Settings:
        """Of `demon.json`, or those that suit its kind. Raises DemonError `E_CHECKPOINT_LAYOUT`."""
        return _read_settings(self.layout.folder, is_turbo=self.is_turbo)

    def needed_parts(self) -> list[str]:
        """The modules that it is made of, by name. Raises DemonError `E_CHECKPOINT_LAYOUT` if one is not there."""
        tokenizers = TOKENIZERS if self.settings.cover_context == "tokenizer" else ()
        needed = ["transformer", "condition_encoder", *tokenizers]
        if absent := [part for part in needed if part not in self.layout.parts]:
            raise DemonError(
                "E_CHECKPOINT_LAYOUT",
                f'{self.layout.folder} lacks {" and ".join(absent)}; one that has no 5 Hz tokenizer says "cover_context": "raw" '
                f"in demon.json",
            )
        return needed

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the files that shape the sound. Reads all of them, once."""
        return content_hash(self.layout.files)


def find_checkpoint(name: str, companions: str | None = None) -> CheckpointFiles:
    """A checkpoint in either layout: `embedded`, a folder, or `owner/repository[/folder]` of a hub.

    companions: folder or hub name with the `vae` and `Qwen3-Embedding-0.6B` of an original checkpoint that has none beside it.

    Raises DemonError: `E_NO_CHECKPOINT` if there is no such folder and none can be had, and as `read_layout`.
    """
    folder = ASSETS / EMBEDDED if name == EMBEDDED else checkpoint_folder(name)
    return CheckpointFiles(name, read_layout(folder, None if companions is None else companions_folder(companions)))


def content_hash(files: Mapping[str, Path]) -> str:
    """SHA-256 over labels and bytes of files, in the order given."""
    digest = hashlib.sha256()
    for label, path in files.items():
        digest.update(label.encode() + b"\0")
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_settings(folder: Path, *, is_turbo: bool) -> Settings:
    path = folder / "demon.json"
    if not path.exists():
        return TURBO_SETTINGS if is_turbo else UNDISTILLED_SETTINGS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path}: {error}") from error
