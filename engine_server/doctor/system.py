# SPDX-License-Identifier: Apache-2.0
"""Disk and limits of the system."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from engine_server.doctor.finding import Finding, fail, ok, warn
from engine_server.folders import data_folder
from engine_server.serve.handles import BESIEGED_HANDLES, PLAYING_HANDLES

GIB, MIB = 2**30, 2**20
FREE_WANTED, FREE_NEEDED = GIB, 100 * MIB
"""A frozen bounce of five minutes at 48 kHz has 110 MiB."""


def check_disk(
    folder: Path | None = None, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> list[Finding]:
    """Renders, receipts and frozen bounces have room, and the folder for them can be written to."""
    folder = folder or data_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return [fail("disk", f"{there} cannot be written to", f"run: chmod u+rwx '{there}', or set XDG_DATA_HOME")]
    free = free_bytes(there)
    text = f"{folder}: {free / GIB:.1f} GiB free"
    if free < FREE_NEEDED:
        return [fail("disk", text, "free some space: a bounce would not fit")]
    if free < FREE_WANTED:
        return [warn("disk", text, "free some space: a few bounces fill it")]
    return [ok("disk", text)]


def check_limits(get_limit: Callable[[int], tuple[int, int]] = resource.getrlimit) -> list[Finding]:
    """64 tracks get their file descriptors. The engine locks no memory, so that limit is told and never wrong."""
    _, hard = get_limit(resource.RLIMIT_NOFILE)
    handles = float("inf") if hard == resource.RLIM_INFINITY else hard
    text = f"file descriptors: {_amount(hard)}"
    if handles < PLAYING_HANDLES:
        found = fail("limits", text, f"64 tracks need {PLAYING_HANDLES}: raise `ulimit -Hn` or LimitNOFILE=")
    elif handles < BESIEGED_HANDLES:
        found = warn("limits", text, f"enough to play; {BESIEGED_HANDLES} withstand a flood of connections")
    else:
        found = ok("limits", text)
    locked, _ = get_limit(resource.RLIMIT_MEMLOCK)
    return [found, ok("limits", f"locked memory: {_amount(locked, MIB, ' MiB')}; the engine locks none")]


def _amount(value: int, unit: int = 1, name: str = "") -> str:
    return "no limit" if value == resource.RLIM_INFINITY else f"{value // unit}{name}"
