# SPDX-License-Identifier: Apache-2.0
"""How many threads the small work of a tick runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1 << 19
"""Values up to which one thread is faster than two: waking a sleeping pool costs as much as half a million additions."""


@contextmanager
def one_thread(values: int) -> Iterator[None]:
    """Run torch's kernels on the calling thread only, where their tensors hold no more than `SMALL` values.

    Measured on two cores with sleeping workers: elementwise kernels on 64,000 values took a quarter of the time. No bit depends
    on it: elementwise kernels and sums along one axis give the same for any number of threads.

    torch counts threads per calling thread: others that compute meanwhile keep theirs. But one whose very first torch call falls
    into this block begins with one thread and stays there, so threads for heavy work should call `torch.set_num_threads` first.
    """
    threads = torch.get_num_threads()
    if values > SMALL or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
