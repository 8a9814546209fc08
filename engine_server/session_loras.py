# SPDX-License-Identifier: Apache-2.0
"""The LoRAs of a session, and the streams that hear them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from engine_server.model.lora_library import LoraLibrary
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.stream import StreamHandle


class SessionLoras:
    """LoRAs stacked on one another. Their strengths hold for every request that names none of its own.

    Any thread may change a strength; one at a time applies and removes.
    """

    def __init__(self, library: LoraLibrary, refusal: str | None = None) -> None:
        """refusal: why the decoder takes none, if it takes none."""
        self.loras = library
        self._refusal = refusal
        self._streams: weakref.WeakSet[StreamHandle] = weakref.WeakSet()
        """The open streams, which hear every change at their next tick."""
        self._applied: list[str] = []

    def apply_lora(self, path: str | Path, scale: float = 1.0) -> str:
        """Put a LoRA on top of those that are applied; its id. Heard by every stream at its next tick.

        Raises DemonError, see `LoraLibrary`, and `E_BACKEND` where the decoder takes none.
        """
        if self._refusal is not None:
            raise DemonError("E_BACKEND", self._refusal)
        lora = self.loras.register(Path(path))
        self.loras.enable(lora, scale)
        self._applied = [other for other in self._applied if other != lora] + [lora]
        self._share_strengths()
        return lora

    def set_lora_strength(self, lora: str, strength: float) -> None:
        """Change the strength of an applied LoRA, without any pause. Heard by every stream at its next tick."""
        self.loras.set_strength(lora, strength)
        self._share_strengths()

    def remove_last_lora(self) -> str | None:
        """Take out the LoRA that was applied last; its id, or None if there is none.

        Its column of strengths is free for another. Requests in flight that name strengths of their own should be finished
        before that: they were read when the request was handed in.
        """
        if not self._applied:
            return None
        lora = self._applied.pop()
        self.loras.set_strength(lora, 0.0)
        self._share_strengths()  # its column may be another LoRA's from now on
        self.loras.remove(lora)
        self._share_strengths()
        return lora

    def remove_loras(self) -> None:
        """Take out all LoRAs: from now on results are bit for bit those of the bare checkpoint."""
        while self.remove_last_lora() is not None:
            pass

    def _strengths(self, own: Mapping[str, float] | None = None) -> Tensor | None:
        strengths = self.loras.strengths(own)
        return strengths if len(strengths) else None

    def _share_strengths(self) -> None:
        for stream in list(self._streams):
            stream.set_adapters(self._strengths())
