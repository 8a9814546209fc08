# SPDX-License-Identifier: Apache-2.0
"""What waits for the engine's thread: one queue per client, taken in turn, so that nobody's flood delays another."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """What has not been taken: messages, input frames in them, and their bytes."""

    messages: int = 0
    frames: int = 0
    size: int = 0


@dataclass(frozen=True)
class Fed:
    """Of one epoch: input frames that have not been taken, and the frame after the furthest of them."""

    frames: int = 0
    end: int = 0


@dataclass
class _Queue(Generic[T]):
    urgent: deque[tuple[T, int, int, int]] = field(default_factory=deque)
    ordered: deque[tuple[T, int, int, int]] = field(default_factory=deque)
    fed: dict[int, Fed] = field(default_factory=dict)
    """By epoch, where there are any."""
    begun: dict[int, int] = field(default_factory=dict)
    """Epochs that begin here, each with the first frame of its feed."""
    size: int = 0


class Inbox(Generic[T]):
    """Any thread may put and ask; one thread takes. Clients are named by their routing ids."""

    def __init__(self) -> None:
        self._queues: dict[bytes, _Queue[T]] = {}
        """Clients with something to take; the one whose turn it is comes first."""
        self._changed = threading.Condition()
        self._closed = False
        self._size = 0

    def put(
        self,
        client: bytes,
        item: T,
        *,
        is_urgent: bool,
        epoch: int = 0,
        frames: int = 0,
        end: int = 0,
        begins_at: int | None = None,
        size: int = 0,
    ) -> None:
        """Add an item. An urgent one overtakes those of its client that are not.

        epoch, end: of the frames in it, and the frame after them. begins_at: where the feed of that epoch begins, if it is its
        begin. size: in bytes.
        """
        with self._changed:
            queue = self._queues.setdefault(client, _Queue())
            (queue.urgent if is_urgent else queue.ordered).append((item, epoch, frames, size))
            if frames:
                before = queue.fed.get(epoch, Fed())
                queue.fed[epoch] = Fed(before.frames + frames, max(before.end, end))
            if begins_at is not None:
                queue.begun[epoch] = begins_at
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
            if frames:
                before = queue.fed.pop(epoch)
                if before.frames > frames:
                    queue.fed[epoch] = Fed(before.frames - frames, before.end)
            else:
                queue.begun.pop(epoch, None)
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
                Waiting(
                    len(queue.urgent) + len(queue.ordered), sum(fed.frames for fed in queue.fed.values()), queue.size
                )
                if queue
                else Waiting()
            )

    def fed(self, client: bytes, epoch: int) -> Fed:
        """What a client has here of one of its epochs."""
        with self._changed:
            queue = self._queues.get(client)
            return queue.fed.get(epoch, Fed()) if queue else Fed()

    def begun(self, client: bytes) -> dict[int, int]:
        """Epochs whose begin a client has here, each with the first frame of its feed."""
        with self._changed:
            queue = self._queues.get(client)
            return dict(queue.begun) if queue else {}

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
