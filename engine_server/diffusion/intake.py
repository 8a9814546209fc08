# SPDX-License-Identifier: Apache-2.0
"""Which request a stream starts next, and when: a mailbox or a queue, and the pacing that spaces completions evenly."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from enum import StrEnum
from fractions import Fraction

from engine_server.diffusion.prepare import PreparedSlot


class Admission(StrEnum):
    """What happens to requests that wait."""

    LIVE = "live"
    """A mailbox of one: the newest wins, and the one that it replaces is reported as superseded."""
    QUEUE = "queue"
    """First in, first out; nothing is ever dropped."""


class QueueFullError(RuntimeError):
    """A bounded queue has no room."""


class Intake:
    """Requests that wait for a slot. Any thread."""

    def __init__(self, admission: Admission, limit: int | None = None) -> None:
        self._admission = admission
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[PreparedSlot] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, slot: PreparedSlot) -> list[Hashable]:
        """Add a request; the ids of those that it supersedes. Raises QueueFullError when a bounded queue is full."""
        with self._lock:
            superseded: list[Hashable] = []
            if self._admission is Admission.LIVE:
                superseded = [other.request.request_id for other in self._waiting]
                self._waiting.clear()
            elif self._limit is not None and len(self._waiting) >= self._limit:
                raise QueueFullError(f"{self._limit} requests are waiting; no more are taken")
            self._waiting.append(slot)
            return superseded

    def peek(self) -> PreparedSlot | None:
        """The request that would start next."""
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def start(self, admit: Callable[[PreparedSlot], None]) -> bool:
        """Hand the next request to `admit`; False if none waits. If that fails it goes on waiting.

        Nobody can supersede or cancel the request meanwhile: it either waits or flies.
        """
        with self._lock:
            if not self._waiting:
                return False
            admit(self._waiting[0])
            self._waiting.popleft()
            return True

    def holds(self, request_id: Hashable) -> bool:
        """Whether a request waits."""
        with self._lock:
            return any(slot.request.request_id == request_id for slot in self._waiting)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._waiting.clear()

    def cancel(self, request_id: Hashable) -> bool:
        """Forget a request; False if it does not wait."""
        with self._lock:
            for slot in self._waiting:
                if slot.request.request_id == request_id:
                    self._waiting.remove(slot)
                    return True
            return False


class Pacer:
    """Credit that grows by D/S per tick and pays for one admission: completions come floor(S/D) or ceil(S/D) ticks apart.

    D slots, S steps of the request that waits. Exact arithmetic, so that no rounding ever shifts a beat.
    """

    def __init__(self) -> None:
        self.credit = Fraction(1)

    def tick(self, depth: int, steps: int) -> None:
        """A tick begins. What is left over is kept, so that the average is D/S; saved-up credit never makes a burst."""
        rate = min(Fraction(depth, max(steps, 1)), Fraction(1))
        if self.credit < 1:
            self.credit += rate

    def can_admit(self) -> bool:
        """Whether a request may start in this tick."""
        return self.credit >= 1

    def admit(self) -> None:
        """A request starts."""
        self.credit -= 1
