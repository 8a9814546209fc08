# SPDX-License-Identifier: Apache-2.0
"""Work beside the work that a GPU has already been given, and its results on their way to the host, which goes on meanwhile.

On the CPU there is no beside: what is asked for is done when the call returns, and on its way is what has arrived.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Arriving:
    """A tensor on its way to the host. Dropping it is safe at any time. One thread."""

    def __init__(self, there: Tensor, done: torch.cuda.Event | None) -> None:
        """there: the host's, complete once `done` has happened, or already without it."""
        self._there = there
        self._done = done

    def is_here(self) -> bool:
        """Whether `wait` would return at once."""
        return self._done is None or self._done.query()

    def wait(self) -> Tensor:
        """The tensor. From a GPU it is a copy in ordinary memory: what is pinned goes back to torch, for the next ones."""
        if self._done is None:
            return self._there
        self._done.synchronize()
        return self._there.clone()


class Aside:
    """A stream of a GPU for what is computed beside its ticks. One thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, work: Callable[[Tensor], Tensor], given: Tensor) -> Arriving:
        """`work(given)`, after what the caller has launched so far and beside what it launches from now on.

        given: nobody writes to it any more; the caller may let go of it. The host waits for nothing. Raises what `work` raises.
        """
        if self._stream is None:
            return Arriving(work(given).contiguous().cpu(), None)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        given.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            made = work(given).contiguous()
            there = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
            there.copy_(made, non_blocking=True)
            # Blocking is for the host: it sleeps until then, and leaves its core to other threads.
            done = torch.cuda.Event(blocking=True)
            done.record(self._stream)
        return Arriving(there, done)


class Lead:
    """How far the host may be ahead of a device: one tick is computed while the next is launched, and no more than that.

    Further ahead, a turned knob would be heard so many ticks later. On the CPU the host is the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._launched: torch.cuda.Event | None = None

    @property
    def ticks(self) -> int:
        """Ticks after which the host learns that one is done."""
        return int(self._is_cuda)

    def keep(self) -> None:
        """A tick was launched: wait until the one before it is done."""
        if not self._is_cuda:
            return
        before, self._launched = self._launched, torch.cuda.Event(blocking=True)
        self._launched.record(torch.cuda.current_stream(self._device))
        if before is not None:
            before.synchronize()
