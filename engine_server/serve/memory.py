# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back to the system: the allocator would keep much of it for as long as the server runs."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> bool:
    """Give free memory back, which takes some milliseconds; whether any was. Any thread. Only glibc can."""
    trim = _trim()
    return trim is not None and bool(trim(0))


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
