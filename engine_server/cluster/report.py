# SPDX-License-Identifier: Apache-2.0
"""What an engine on a node tells the gateway, and whether two engines give the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["loading", "serving", "failed", "ended"]
"""failed: it will not serve, `Report.reason` says why; ended: it has taken leave of its tracks."""


class EngineInterruptedError(Exception):
    """The engine's process has ended and is started again at the same node."""


class EngineGoneError(Exception):
    """The engine will not come back. The text says why."""


@dataclass(frozen=True)
class Identity:
    """What the bits of a track depend on besides the track: a track may move between engines only where all is equal.

    libraries: names and versions, as in a receipt. processor is its kind; other kinds may round otherwise, and mostly do not.
    """

    checkpoint: str
    checkpoint_hash: str
    backend: str
    demon: str
    libraries: str
    threads: int
    processor: str


@dataclass(frozen=True)
class Report:
    """An engine's state. endpoint: where it serves; key: its node's public key, empty on loopback; tracks: served, of `capacity`.

    devices: the GPUs that Ray gave it (`CUDA_VISIBLE_DEVICES`).
    """

    state: State
    pid: int
    endpoint: str = ""
    key: str = ""
    tracks: int = 0
    capacity: int = 0
    identity: Identity | None = None
    devices: str = ""
    reason: str = ""


NAMES = {
    "checkpoint_hash": "its checkpoint's hash",
    "backend": "its backend",
    "demon": "its version of DEMON Bridge",
    "libraries": "its libraries",
    "threads": "its number of threads",
}


def disagreement(first: Identity, other: Identity) -> str:
    """Why tracks of the first engine cannot move to the other, as their bits would change; empty if they can."""
    for field, name in NAMES.items():
        here, there = getattr(first, field), getattr(other, field)
        if here != there:
            return f"{name} is {there}, that of the engines before it {here}: the bits would differ"
    return ""
