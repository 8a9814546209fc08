# SPDX-License-Identifier: Apache-2.0
"""What waits for the engine's thread: one queue per client, taken in turn, so that nobody's flood delays another."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Queue(Generic[T]):
    urgent: deque[T] = field(default_factory=deque)
    ordered: deque[tuple[T, int]] = field(default_factory=deque)
    frames: int = 0


class Inbox(Generic[T]):
    """Any thread may put and ask; one thread takes. Clients are named by their routing ids."""

    def __init__(self) -> None:
        self._queues: dict[bytes, _Queue[T]] = {}
        """Clients with something to take; the one whose turn it is comes first."""
        self._changed = threading.Condition()
        self._closed = False

    def put(self, client: bytes, item: T, *, is_urgent: bool, frames: int = 0) -> None:
        """Add an item. An urgent one overtakes those of its client that are not. frames: input frames that it holds."""
        with self._changed:
            queue = self._queues.setdefault(client, _Queue())
            if is_urgent:
                queue.urgent.append(item)
            else:
                queue.ordered.append((item, frames))
                queue.frames += frames
            self._changed.notify()

    def take(self, timeout_s: float) -> T | None:
        """The next item: one of each client in turn. None when there is none within the time, or when closed."""
        with self._changed:
            if not self._queues and not self._closed:
                self._changed.wait(timeout_s)
            if self._closed or not self._queues:
                return None
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            if queue.urgent:
                item = queue.urgent.popleft()
            else:
                item, frames = queue.ordered.popleft()
                queue.frames -= frames
            if queue.urgent or queue.ordered:
                self._queues[client] = queue
            return item

    def waiting(self, client: bytes) -> tuple[int, int]:
        """Items and input frames of a client that have not been taken."""
        with self._changed:
            queue = self._queues.get(client)
            return (len(queue.urgent) + len(queue.ordered), queue.frames) if queue else (0, 0)

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
