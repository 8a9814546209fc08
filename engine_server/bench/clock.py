# SPDX-License-Identifier: Apache-2.0
"""Time on a device: marks in its stream of work, which do not wait for it, and how many operations a second it can do."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

import torch

GPU_SIZE, CPU_SIZE = 8192, 1024
"""Rows and columns of the matrices that are multiplied: so many that a GPU is full, and that a CPU takes no second."""
SETTLING_S = 0.5
"""A GPU raises its clock under load, and lowers it again where heat or power bid it."""


class Clock:
    """Marks of one device: CUDA events in the current stream, or on a CPU, where work is done when a call returns, its time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"

    def mark(self) -> Any:
        """A point in the device's work, after what was asked for so far."""
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        """Until the device has reached all marks."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)

    def seconds(self, first: Any, last: Any) -> float:
        """Between two marks that the device has reached; call `wait` before."""
        return float(first.elapsed_time(last)) / 1000 if self._is_cuda else float(last - first)


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype, *, size: int | None = None, rounds: int = 30) -> float:
    """Operations per second in the product of two large square matrices: the median of some rounds, the device warm."""
    size = size or (GPU_SIZE if device.type == "cuda" else CPU_SIZE)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out, clock = torch.empty_like(a), Clock(device)
    until = time.perf_counter() + SETTLING_S
    while time.perf_counter() < until:
        torch.matmul(a, b, out=out)
        clock.wait()
    marks = [clock.mark()]
    for _ in range(rounds):
        torch.matmul(a, b, out=out)
        marks.append(clock.mark())
    clock.wait()
    took = [clock.seconds(first, last) for first, last in pairwise(marks)]
    return 2 * size**3 / statistics.median(took)
