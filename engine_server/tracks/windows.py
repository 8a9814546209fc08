# SPDX-License-Identifier: Apache-2.0
"""What tracks ask for and what they hand out, by name."""

from __future__ import annotations

from dataclasses import dataclass

from shared_protocol.codec import Floats


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
