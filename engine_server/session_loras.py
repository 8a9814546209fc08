# SPDX-License-Identifier: Apache-2.0
"""The LoRAs of a session, and the streams that hear them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from engine_server.model.backends import ONE_MIX
from engine_server.model.lora_library import LoraLibrary
from engine_server.model.lora_mix import Mix
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.stream import StreamHandle


class WritesLoras(Protocol):
    """A decoder whose weights LoRAs are merged into, one mix for all that it computes: see `EngineDecoder`."""

    @property
    def lora_refusal(self) -> str | None:
        """Why it takes none, if it takes none."""
        ...

    def ask(self, mix: Mix) -> None:
        """Have a mix heard from one of the next ticks on."""
        ...

    def settle(self, *, exact: bool) -> None:
        """A tick begins; exact: with the mix that was asked for last."""
        ...


class SessionLoras:
    """LoRAs stacked on one another. Their strengths hold for every request that names none of its own.

    A decoder that writes LoRAs into its weights takes no others than the session's, and writing takes time: a stream that queues
    waits for it before a tick, so that a generation has exactly the strengths that were set; a live stream never waits, and hears
    them when they are there, but for changes by less than `LEAST_CHANGE`.

    Any thread may change a strength; one at a time applies and removes.
    """

    def __init__(self, library: LoraLibrary, written: WritesLoras | None = None) -> None:
        """written: the decoder, if it hears LoRAs by its weights or not at all."""
        self.loras = library
        self._written = written
        self._streams: weakref.WeakSet[StreamHandle] = weakref.WeakSet()
        """The open streams, which hear every change at their next tick."""
        self._applied: list[str] = []
        self._sharing = threading.Lock()

    def apply_lora(self, path: str | Path, scale: float = 1.0) -> str:
        """Put a LoRA on top of those that are applied; its id. Heard by every stream at its next tick.

        Raises DemonError, see `LoraLibrary`, and `E_BACKEND` where the decoder takes none.
        """
        if self._written is not None and self._written.lora_refusal is not None:
            raise DemonError("E_BACKEND", self._written.lora_refusal)
        lora = self.loras.register(Path(path))
        self.loras.enable(lora, scale)
        self._applied = [other for other in self._applied if other != lora] + [lora]
        self._share_strengths()
        return lora

    def set_lora_strength(self, lora: str, strength: float) -> None:
        """Change the strength of an applied LoRA, without any pause. Heard by every stream at its next tick, or where LoRAs are
        written into weights, as the class says."""
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

    def row_strengths(self, own: Mapping[str, float] | None = None) -> Tensor | None:
        """Strengths `[A]` of rows of a forward: own ones by id, else the session's; None where rows have none.

        Raises DemonError, see `LoraLibrary.strengths`, and for own ones `check_own_strengths`.
        """
        if own is not None and (own or self._applied):
            self.check_own_strengths()
        if self._written is not None:
            return None
        strengths = self.loras.strengths(own)
        return strengths if len(strengths) else None

    def check_own_strengths(self) -> None:
        """Raise DemonError `E_BACKEND` if all rows have the same weights, and so no strengths of their own."""
        if self._written is not None:
            raise DemonError("E_BACKEND", self._written.lora_refusal or ONE_MIX)

    def _settles(self, *, is_exact: bool) -> Callable[[], None] | None:
        """What a stream calls before its ticks."""
        if self._written is None or self._written.lora_refusal is not None:
            return None
        return partial(self._written.settle, exact=is_exact)

    def _share_strengths(self) -> None:
        with self._sharing:  # else what one thread has read could be told after what another one has set since
            if self._written is None:
                for stream in list(self._streams):
                    stream.set_adapters(self.row_strengths())
            elif self._written.lora_refusal is None:
                self._written.ask(self.loras.mix())
