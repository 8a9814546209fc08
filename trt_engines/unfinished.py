# SPDX-License-Identifier: Apache-2.0
"""Folders in which files are made, beside the place that they are for: nothing that is half written ever lies in that place."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = ".building-"


def unfinished(place: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder within `place`, so on the same disk. It is gone when it is left, however that ends; after a kill, with `sweep`."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=place)


def sweep(place: Path) -> list[str]:
    """Remove what processes that were killed have left in `place`, not what another one is making; the names."""
    left = sorted(one for one in place.glob(f"{PREFIX}*") if not _is_in_use(one))
    for one in left:
        shutil.rmtree(one, ignore_errors=True)
    return [one.name for one in left]


def _is_in_use(folder: Path) -> bool:
    process, _, _ = folder.name.removeprefix(PREFIX).partition("-")
    return process.isdigit() and psutil.pid_exists(int(process))
