# SPDX-License-Identifier: Apache-2.0
"""What tracks ask for and what they hand out, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine_server.model.windows import Span
from shared_protocol.codec import Floats

NEVER = float("inf")
"""The deadline of what nobody waits for."""

RingKey = tuple[int, int]
"""Frames and condition tokens of a request: it shares a ring with those of the same sizes."""


Revision = Callable[[], Mapping[str, Any]]
"""Makes the step-time values that a request in flight is to have from now on."""


class Rank(IntEnum):
    """Whose hops come first: what is played as it is made, what is made again and again, what nobody listens to yet."""

    LIVE = 0
    LOOP = 1
    OFFLINE = 2


@dataclass(frozen=True)
class HopId:
    """Names a generation of a track's epoch, and its slot request: a hop of a stream, a take of a loop, a round of a commit."""

    track: str
    epoch: int
    hop: int


@dataclass(frozen=True)
class AudioWindow:
    """Finished audio `[2, count frames]` at the track's rate, from `frame` on. take: which one of a loop, else 0."""

    track: str
    epoch: int
    frame: int
    count: int
    audio: Floats
    take: int = 0


@dataclass(frozen=True)
class WindowPlace:
    """Where audio that is being made belongs. span: the frames of the timeline that are decoded; first: the first one wanted."""

    track: str
    epoch: int
    span: Span
    first: int
    take: int = 0

    def window(self, audio: Floats) -> AudioWindow:
        """The window, of the whole span's audio `[2, n]`."""
        size, skipped = audio.shape[1] // len(self.span), self.first - self.span.first
        heard = audio[:, skipped * size :]
        return AudioWindow(self.track, self.epoch, self.first, len(self.span) - skipped, heard, self.take)
