# SPDX-License-Identifier: Apache-2.0
"""What waits for the engine's thread: one queue per client, taken in turn, so that nobody's flood delays another."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """What has not been taken: messages, input frames in them, and their bytes."""

    messages: int = 0
    frames: int = 0
    size: int = 0


@dataclass
class _Queue(Generic[T]):
    urgent: deque[tuple[T, int, int, int]] = field(default_factory=deque)
    ordered: deque[tuple[T, int, int, int]] = field(default_factory=deque)
    frames: Counter[int] = field(default_factory=Counter)
    """By epoch."""
    size: int = 0


class Inbox(Generic[T]):
    """Any thread may put and ask; one thread takes. Clients are named by their routing ids."""

    def __init__(self) -> None:
        self._queues: dict[bytes, _Queue[T]] = {}
        """Clients with something to take; the one whose turn it is comes first."""
        self._changed = threading.Condition()
        self._closed = False
        self._size = 0

    def put(self, client: bytes, item: T, *, is_urgent: bool, epoch: int = 0, frames: int = 0, size: int = 0) -> None:
        """Add an item. An urgent one overtakes those of its client that are not. epoch: of the frames. size: in bytes."""
        with self._changed:
            queue = self._queues.setdefault(client, _Queue())
            (queue.urgent if is_urgent else queue.ordered).append((item, epoch, frames, size))
            queue.frames[epoch] += frames
            queue.size += size
            self._size += size
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
            item, epoch, frames, size = (queue.urgent or queue.ordered).popleft()
            queue.frames[epoch] -= frames
            if not queue.frames[epoch]:
                del queue.frames[epoch]
            queue.size -= size
            self._size -= size
            if queue.urgent or queue.ordered:
                self._queues[client] = queue
            return item

    def waiting(self, client: bytes) -> Waiting:
        """What a client has here."""
        with self._changed:
            queue = self._queues.get(client)
            return (
                Waiting(len(queue.urgent) + len(queue.ordered), queue.frames.total(), queue.size)
                if queue
                else Waiting()
            )

    def frames_of(self, client: bytes, epoch: int) -> int:
        """Input frames of one of a client's epochs that have not been taken."""
        with self._changed:
            queue = self._queues.get(client)
            return queue.frames[epoch] if queue else 0

    @property
    def size(self) -> int:
        """Bytes of all clients."""
        return self._size

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
