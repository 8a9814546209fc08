# SPDX-License-Identifier: Apache-2.0
"""References of a track, audio that its configuration names by hash: put together from pieces, checked and encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping

import numpy as np
import torch
from torch import Tensor

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.timbre import timbre_indices
from engine_server.model.windows import encode_window
from engine_server.tracks.resample import MODEL_RATE, margin, to_model
from shared_protocol.codec import CHANNELS, Floats
from shared_protocol.errors import DemonError
from shared_protocol.messages import Reference
from shared_protocol.timebase import MAX_RATE, MIN_RATE, frames_to_cover, is_valid_rate, samples_per_frame

PIECE_FRAMES = 250
"""Frames that are resampled or encoded at once: other tracks' ticks wait for no more than that."""
USES = ("timbre", "structure")
Work = Generator[Tensor | None, None, Tensor]
"""Yields between pieces, and then the result."""


def reference_hash(audio: Floats, rate: int) -> str:
    """What names a reference `[2, N]` on the wire, in projects and in receipts; see `reference` in SPEC.md."""
    digest = hashlib.sha256(f"{rate}\n".encode())
    digest.update(np.ascontiguousarray(audio, dtype="<f4").tobytes())
    return digest.hexdigest()


class _Upload:
    """Pieces on their way to a whole."""

    def __init__(self, piece: Reference) -> None:
        self.rate, self.total = piece.rate, piece.total
        self.audio = np.empty((CHANNELS, piece.total), dtype=np.float32)
        self.here = 0

    def add(self, piece: Reference, audio: Floats) -> None:
        if (piece.rate, piece.total) != (self.rate, self.total):
            raise DemonError("E_FIELD", f"{piece.hash}: rate or total differ from those of the first piece")
        if piece.first > self.here:
            raise DemonError(
                "E_REFERENCE", f"{piece.hash}: sample {piece.first} came where {self.here} was expected; begin again"
            )
        stop = piece.first + piece.count
        self.audio[:, piece.first : stop] = audio
        self.here = max(self.here, stop)


class References:
    """The references that one configuration names: at most two. One thread.

    Encoding is done in pieces: call `encode_some` until `is_encoding` is over.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names: dict[str, str] = {}
        self._uploads: dict[str, _Upload] = {}
        self._whole: set[str] = set()
        self._latents: dict[tuple[str, str], Tensor] = {}
        self._work: dict[tuple[str, str], Work] = {}
        self._audio: dict[str, tuple[Floats, int]] = {}

    def name(self, timbre: str, structure: str) -> None:
        """What the configuration names from now on, "" being none; everything else is forgotten."""
        names = {use: name for use, name in zip(USES, (timbre, structure), strict=True) if name}
        if names == self._names:
            return
        self._names = names
        kept = set(names.values())
        self._uploads = {name: upload for name, upload in self._uploads.items() if name in kept}
        self._whole &= kept
        self._audio = {name: audio for name, audio in self._audio.items() if name in kept}
        uses = {(use, name) for use, name in names.items()}
        self._latents = {key: latents for key, latents in self._latents.items() if key in uses}
        self._work = {key: work for key, work in self._work.items() if key in uses}
        for name in [name for use, name in uses if name in self._whole and not self._is_begun(use, name)]:
            if name in self._audio:
                self._begin(name)
            else:  # its samples are gone, and it has a new use
                self._whole.discard(name)

    def missing(self) -> list[DemonError]:
        """An `E_REFERENCE` for every reference that is named and not whole."""
        missing: Mapping[str, str] = {name: use for use, name in self._names.items() if name not in self._whole}
        return [
            DemonError("E_REFERENCE", f"{name}: the {use} reference is not here yet") for name, use in missing.items()
        ]

    def is_ready(self) -> bool:
        """Whether everything that is named is whole and encoded."""
        return all((use, name) in self._latents for use, name in self._names.items())

    def is_encoding(self) -> bool:
        """Whether `encode_some` has something to do."""
        return bool(self._work)

    def add(self, piece: Reference, audio: Floats) -> bool:
        """Take a piece `[2, count]`; whether the reference is whole with it. Raises as `reference` in SPEC.md says."""
        if not is_valid_rate(piece.rate):
            raise DemonError("E_SAMPLE_RATE", f"{piece.rate} Hz is not a multiple of 25 from {MIN_RATE} to {MAX_RATE}")
        if piece.hash not in self._names.values():
            raise DemonError("E_FIELD", f"{piece.hash}: the configuration names no such reference")
        if piece.hash in self._whole:
            return True
        if piece.first == 0:
            self._uploads[piece.hash] = _Upload(piece)
        if piece.hash not in self._uploads:
            raise DemonError("E_REFERENCE", f"{piece.hash}: sample {piece.first} came first; begin with sample 0")
        upload = self._uploads[piece.hash]
        upload.add(piece, audio)
        if upload.here < upload.total:
            return False
        del self._uploads[piece.hash]
        found = reference_hash(upload.audio, upload.rate)
        if found != piece.hash:
            raise DemonError("E_FIELD", f"{piece.hash} is not the hash of these samples, which is {found}")
        self.put(piece.hash, upload.audio, upload.rate)
        return True

    def put(self, name: str, audio: Floats, rate: int) -> None:
        """Take a whole reference `[2, N]` under its hash, which is not checked."""
        self._whole.add(name)
        self._audio[name] = (audio, rate)
        self._begin(name)

    def encode_some(self) -> None:
        """Do a piece of what there is to encode. If that fails the reference is missing again."""
        for key, work in self._work.items():
            try:
                latents = next(work)
            except Exception:
                del self._work[key]
                self._whole.discard(key[1])
                raise
            if latents is not None:
                self._latents[key] = latents
                del self._work[key]
            if not self._work:
                self._audio.clear()
            return

    def timbre(self) -> Tensor | None:
        """Latents `[750, C]` of the timbre reference, on the host; None if there is none."""
        return self._latents.get(("timbre", self._names.get("timbre", "")))

    def structure(self) -> Tensor | None:
        """The structure `[N, C]` of the structure reference, None if there is none."""
        return self._latents.get(("structure", self._names.get("structure", "")))

    def _is_begun(self, use: str, name: str) -> bool:
        return (use, name) in self._latents or (use, name) in self._work

    def _begin(self, name: str) -> None:
        encoders = {"timbre": self._encode_timbre, "structure": self._encode_structure}
        for use in USES:
            if self._names.get(use) == name and not self._is_begun(use, name):
                self._work[use, name] = encoders[use](*self._audio[name])

    def _encode_timbre(self, audio: Floats, rate: int) -> Work:
        model_audio = yield from _resampled(audio, rate)
        heard = model_audio[:, timbre_indices(model_audio.shape[1], MODEL_RATE)]
        latents = yield from self._encoded(heard)
        # On the host: a condition is looked up by the hash of these, at every hop.
        timbre = latents.cpu()
        yield timbre
        return timbre

    def _encode_structure(self, audio: Floats, rate: int) -> Work:
        model_audio = yield from _resampled(audio, rate)
        latents = yield from self._encoded(model_audio)
        hints = self._checkpoint.structure.hints(latents)
        yield hints
        return hints

    def _encoded(self, model_audio: Tensor) -> Work:
        codec, device = self._checkpoint.codec, self._checkpoint.placement.device
        frames = frames_to_cover(model_audio.shape[1], MODEL_RATE)
        parts = []
        for first in range(0, frames, PIECE_FRAMES):
            parts.append(encode_window(codec, model_audio, first, min(PIECE_FRAMES, frames - first), device=device))
            yield None
        return torch.cat(parts)


def _resampled(audio: Floats, rate: int) -> Work:
    """`[2, N]` at the model's rate."""
    size, reach = samples_per_frame(rate), margin(rate)
    frames = frames_to_cover(audio.shape[1], rate)
    padded = np.pad(audio, ((0, 0), (reach * size, (frames + reach) * size - audio.shape[1])))
    parts = []
    for first in range(0, frames, PIECE_FRAMES):
        stop = min(first + PIECE_FRAMES, frames)
        parts.append(to_model(padded[:, first * size : (stop + 2 * reach) * size], rate))
        yield None
    samples = -(-audio.shape[1] * MODEL_RATE // rate)
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :samples]))
