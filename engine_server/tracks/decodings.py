# SPDX-License-Identifier: Apache-2.0
"""The windows of an epoch whose audio is being made, from the step of the engine that began them to the one that hands them out.

What a GPU makes is handed out in the step after, which has launched the next tick by then. So it does not depend on how fast the
GPU is which step brings what. What is dropped with its epoch, or with its track, is never handed out.
"""

from __future__ import annotations

from collections import deque

from engine_server.tracks.decode import Decoding
from engine_server.tracks.windows import AudioWindow, WindowPlace


class Decodings:
    """In the order in which they were begun. One thread."""

    def __init__(self) -> None:
        self._begun: deque[tuple[WindowPlace, Decoding, int]] = deque()
        self._due = 0
        """So many of them were begun before this step."""

    def __bool__(self) -> bool:
        """Whether there is audio to come."""
        return bool(self._begun)

    def tick(self) -> None:
        """A step of the engine begins."""
        self._due = len(self._begun)

    def begin(self, place: WindowPlace, decoding: Decoding, *, hop: int = 0) -> None:
        """Take a window that was just begun; hop: the one whose end has made it possible."""
        self._begun.append((place, decoding, hop))

    def concern(self, hop: int) -> bool:
        """Whether audio that a hop has made possible is to come."""
        return any(its == hop for _, _, its in self._begun)

    def take(self, *, waits: bool = False) -> list[AudioWindow]:
        """The windows that are ready; waits: also those begun before this step. Raises ValueError as `Decoding.result`."""
        windows = []
        while self._begun and ((waits and self._due > 0) or self._begun[0][1].is_ready()):
            place, decoding, _ = self._begun.popleft()
            self._due = max(0, self._due - 1)
            windows.append(place.window(decoding.result()))
        return windows
