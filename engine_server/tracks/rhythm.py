# SPDX-License-Identifier: Apache-2.0
"""How often something happens: beats of the last few seconds."""

from __future__ import annotations

from collections import deque

SECONDS = 3.0


class Rhythm:
    """Beats per second, smoothed over the last three seconds; 0 when nothing has happened for that long."""

    def __init__(self) -> None:
        self._beats: deque[float] = deque(maxlen=4096)

    def beat(self, now: float) -> None:
        """It happens now; `now` is in seconds and never falls."""
        self._beats.append(now)

    def per_second(self, now: float) -> float:
        """As of now. A rhythm that has just begun is measured from its first beat on."""
        while self._beats and now - self._beats[0] > SECONDS:
            self._beats.popleft()
        if len(self._beats) < 2:
            return len(self._beats) / SECONDS
        return (len(self._beats) - 1) / max(now - self._beats[0], 1e-3)
