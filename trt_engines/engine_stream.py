# SPDX-License-Identifier: Apache-2.0
"""What engines that never run at once share: a stream of their own, and one block of scratch memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


class EngineStream:
    """A stream of a GPU for engines alone: TensorRT waits for the whole device where it is given the default stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

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


class Scratch:
    """The memory that engines compute in, one block for all of a stream: it is as large as the greatest of their needs."""

    def __init__(self, device: torch.device, order: Order) -> None:
        self.order = order
        self.device = device
        self._block = torch.empty(0, dtype=torch.uint8, device=device)

    def reserve(self, size: int) -> None:
        """Make room for so many bytes. Raises `torch.OutOfMemoryError`, and then nothing has changed."""
        if size > self._block.nbytes:
            block = torch.empty(size, dtype=torch.uint8, device=self.device)
            self.order.keep(block)
            self._block = block

    @property
    def address(self) -> int:
        """Where it lies until it grows; torch aligns blocks to 512 bytes, and TensorRT asks for 256."""
        return self._block.data_ptr()

    @property
    def size(self) -> int:
        """In bytes."""
        return self._block.nbytes

    @contextmanager
    def turn(self) -> Iterator[int]:
        """A block of code in which the scratch is the caller's to launch with, on the stream whose handle it gets."""
        yield from self.order.between()
