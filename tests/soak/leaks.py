# SPDX-License-Identifier: Apache-2.0
"""What stays behind: processes, files, threads and memory that grow."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from tests.soak.servers import Held, Server
from tests.soak.verdicts import ViolationError

MARK = "DEMON_SOAK_RUN"
WARM_UP = 3
"""Samples before memory and threads are what they stay."""
FORGET_S = 45.0
"""A server forgets a track that has been silent for 30 s (SPEC.md, section 5)."""
MOST_GROWTH_KIB = 24 * 1024
"""Over a phase, from the trend: what the allocator keeps varies by as much."""


def mark_run() -> str:
    """Mark every process that this one starts from now on; the mark."""
    os.environ[MARK] = uuid.uuid4().hex
    return os.environ[MARK]


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every process with the mark, whoever its parent is by now, and zombies of ours; not this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            is_ours = process.ppid() == os.getpid() and process.status() == psutil.STATUS_ZOMBIE
            if process.pid != os.getpid() and (is_ours or process.environ().get(MARK) == mark):
                found.append(process)
    return found


def check_no_processes(mark: str, but: Sequence[int] = ()) -> None:
    """Raises ViolationError for processes with the mark that still are there."""
    left = [process for process in marked_processes(mark) if process.pid not in but]
    if left:
        names = []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(f"{process.pid} ({process.status()}) {' '.join(process.cmdline())[:80]}")
        raise ViolationError(f"processes are left: {names}")


def check_no_files(folder: Path) -> None:
    """Raises ViolationError for anything in a folder."""
    if left := sorted(file.name for file in folder.iterdir()):
        raise ViolationError(f"{len(left)} temporary files are left: {left[:5]}")


def check_forgotten(server: Server) -> float:
    """Seconds until the server has forgotten every track. Raises ViolationError when it keeps one."""
    began = time.monotonic()
    while known := server.known_tracks():
        if time.monotonic() - began > FORGET_S:
            raise ViolationError(f"after {FORGET_S:.0f} s without clients the server still knows {len(known)} tracks")
        time.sleep(0.1)
    return time.monotonic() - began


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Theil and Sen's estimate of the slope: the median over all pairs, which outliers do not move."""
    pairs = [
        (values[j] - values[i]) / (times[j] - times[i])
        for i in range(len(times))
        for j in range(i + 1, len(times))
        if times[j] > times[i]
    ]
    return median(pairs) if pairs else 0.0


def check_flat(
    samples: Sequence[Held], most_growth_kib: float = MOST_GROWTH_KIB, *, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Figures of one life of a server, sampled whenever no host was there. Raises ViolationError when something grows."""
    steady = samples[warm_up:]
    if len(steady) < 2:
        return {}
    numbers = [float(k) for k in range(len(steady))]
    growth = slope(numbers, [one.rss_kib for one in steady]) * (len(steady) - 1)
    figures = {
        "rss_mib": steady[-1].rss_kib / 1024,
        "rss_growth_mib": growth / 1024,
        "files_first": steady[0].files,
        "files_last": steady[-1].files,
        "threads_first": steady[0].threads,
        "threads_last": steady[-1].threads,
    }
    for what in ("files", "threads", "processes"):
        first, last = getattr(steady[0], what), getattr(steady[-1], what)
        if last > first:
            raise ViolationError(f"{what} grew from {first} to {last}")
    if growth > most_growth_kib:
        raise ViolationError(f"memory grew by {growth / 1024:.1f} MiB over {len(steady)} scenarios")
    return figures
