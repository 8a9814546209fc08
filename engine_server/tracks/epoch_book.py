# SPDX-License-Identifier: Apache-2.0
"""The epochs of a track as its client knows them: how far each was fed, which are done, and which were dropped."""

from __future__ import annotations

from collections import deque

from shared_protocol.errors import DemonError
from shared_protocol.messages import MAX_OPEN_EPOCHS


class EpochBook:
    """A drop may overtake what it drops, since the two come on different sockets: then nothing begins. One thread."""

    def __init__(self) -> None:
        self.newest = 0
        """Highest number that was begun; 0 before the first."""
        self._expected: dict[int, int] = {}
        self._done: set[int] = set()
        self._dropped: deque[int] = deque(maxlen=MAX_OPEN_EPOCHS)

    @property
    def positions(self) -> dict[int, int]:
        """Next frame of input expected, for every epoch that is open, or is done and was not dropped yet."""
        return dict(self._expected)

    def check_next(self, epoch: int) -> None:
        """Raise DemonError `E_EPOCH`, `E_LIMIT` if an epoch cannot begin."""
        if epoch <= self.newest:
            raise DemonError("E_EPOCH", f"epoch {epoch} does not come after epoch {self.newest}")
        if len(self._expected) - len(self._done) >= MAX_OPEN_EPOCHS:
            raise DemonError("E_LIMIT", f"more than {MAX_OPEN_EPOCHS} epochs are unfinished")

    def begin(self, epoch: int, feed_from: int) -> None:
        """An epoch begins, after `check_next`."""
        self.newest = epoch
        self._expected[epoch] = feed_from
        while len(self._expected) > MAX_OPEN_EPOCHS:
            self._forget(min(self._done))

    def feed(self, epoch: int, expected: int) -> None:
        """An epoch was fed up to a frame."""
        self._expected[epoch] = expected

    def finish(self, epoch: int) -> None:
        """All of an epoch was handed out."""
        self._done.add(epoch)

    def drop(self, epoch: int) -> None:
        """An epoch is not wanted, whether it has begun or not."""
        self._forget(epoch)
        self._dropped.append(epoch)

    def is_over(self, epoch: int) -> bool:
        """Whether what still comes for an epoch is to be ignored."""
        return epoch in self._done or epoch in self._dropped

    def _forget(self, epoch: int) -> None:
        self._expected.pop(epoch, None)
        self._done.discard(epoch)
