# SPDX-License-Identifier: Apache-2.0
"""What the embedded checkpoint should reach: the one table of targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`low <= value <= high`; a missing bound is infinite."""

    low: float = -math.inf
    high: float = math.inf

    def is_met(self, value: float) -> bool:
        """Whether a value lies within; NaN never does."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"= {self.low:g}"
        if self.low == -math.inf:
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"


def _least(value: float) -> Target:
    return Target(low=value)


def _most(value: float) -> Target:
    return Target(high=value)


TARGETS: Mapping[str, Mapping[str, Target]] = {
    "codec": {
        "note F1, rendered": _least(0.75),
        "note F1, recordings": _least(0.75),
        "log-mel distance, rendered": _most(0.20),
        "log-mel distance, recordings": _most(0.28),
        "log-spectral distance, rendered": _most(6.0),
        "log-spectral distance, recordings": _most(6.0),
        "partials within 1 %": _least(1.0),
        "largest error of a partial": _most(1.0),
        "window against whole": _most(1e-6),
        "peak of coded silence": _most(1e-3),
    },
    "identity": {
        "pinned frames equal the source": Target(1.0, 1.0),
        "audio of pinned frames": _most(1e-6),
        "denoise 0 returns the source": Target(1.0, 1.0),
        "forwards at denoise 0": Target(0.0, 0.0),
        "prompts differ more than seeds": Target(1.0, 1.0),
        "guidance 2 against 1": _least(0.01),
        "encoding again": _most(1e-5),
    },
    "covers": {
        "judge right on own soundfonts": _least(0.85),
        "prompted family heard, denoise 1": _least(0.70),
        "source's family heard, denoise 1": _most(0.15),
        "note F1, denoise 0.6": _least(0.55),
        "note F1, denoise 1": _least(0.45),
        "centroid moves the right way, denoise 1": _least(0.85),
    },
    "dose": {
        "denoise: steps that go farther": Target(1.0, 1.0),
        "source_blend: steps that go farther": Target(1.0, 1.0),
        "distance at denoise 0": Target(0.0, 0.0),
    },
    "lanes": {"lanes that are heard": _least(1.0)},
    "loras": {"LoRAs told from none": _least(1.0)},
    "speed": {
        "generations": _least(2.0),
        "decode of 3 s": _most(300.0),
    },
}


def target_of(part: str, figure: str) -> Target | None:
    """The target of a figure by its name."""
    return TARGETS.get(part, {}).get(figure)
