# SPDX-License-Identifier: Apache-2.0
"""What engines that never run at once share: a stream of their own, and one block of scratch memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Order(Protocol):
    """When engines run, and what must outlive that."""

    def between(self) -> Iterator[int]:
        """Yields once, a stream's handle: what is launched on it runs after what the caller has launched so far, and before what
        the caller launches from then on. The host waits for nothing. Meanwhile the engines' GPU is the thread's current one."""
        ...

    def keep(self, block: Tensor) -> None:
        """Its memory is no one else's before the stream is done with it."""
        ...

    def mark(self) -> Callable[[], None]:
        """What waits, on whatever thread calls it, until all that has been launched on the stream by now is done."""
        ...

    def aside(self) -> AbstractContextManager[int]:
        """A block of code whose work on the GPU runs beside the engines: on a stream of its own, whose handle it gets, and which
        is also torch's current one. At the end the host waits for it. One thread at a time."""
        ...


class EngineStream:
    """A stream of a GPU for engines alone: TensorRT waits for the whole device where it is given the default stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._beside = torch.cuda.Stream(device)

    def between(self) -> Iterator[int]:
        """See `Order`: an event in either direction."""
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.device(self._device):
                yield int(self._stream.cuda_stream)
        finally:
            caller.wait_stream(self._stream)

    def keep(self, block: Tensor) -> None:
        """See `Order`."""
        block.record_stream(self._stream)

    def mark(self) -> Callable[[], None]:
        """See `Order`."""
        event = torch.cuda.Event()
        event.record(self._stream)
        return event.synchronize

    @contextmanager
    def aside(self) -> Iterator[int]:
        """See `Order`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._beside):
            try:
                yield int(self._beside.cuda_stream)
            finally:
                self._beside.synchronize()


class Scratch:
    """The memory that engines compute in, one block for all of a stream: it is as large as the greatest of their needs.

    Contexts are also made by the thread that refits, so any thread may reserve.
    """

    def __init__(self, device: torch.device, order: Order) -> None:
        self.order = order
        self.device = device
        self.block = torch.empty(0, dtype=torch.uint8, device=device)
        """Replaced when it grows; torch aligns blocks to 512 bytes, and TensorRT asks for 256."""
        self._growing = threading.Lock()

    def reserve(self, size: int) -> None:
        """Make room for so many bytes. Raises `torch.OutOfMemoryError`, and then nothing has changed."""
        with self._growing:
            if size > self.block.nbytes:
                block = torch.empty(size, dtype=torch.uint8, device=self.device)
                self.order.keep(block)
                self.block = block

    @contextmanager
    def turn(self) -> Iterator[int]:
        """A block of code in which the scratch is the caller's to launch with, on the stream whose handle it gets."""
        yield from self.order.between()
