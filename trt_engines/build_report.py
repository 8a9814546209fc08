# SPDX-License-Identifier: Apache-2.0
"""`build_report.csv`: what was built on this machine, when, and how long it took. Later builds are announced from it."""

from __future__ import annotations

import csv
import datetime
import logging
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

NAME = "build_report.csv"
Status = Literal["built", "failed", "interrupted"]

log = logging.getLogger("demon.engine")


@dataclass(frozen=True)
class Built:
    """A line. checkpoint: the name of its folder; gpu: the kinds that it was built for; library: its name and version."""

    timestamp: str
    checkpoint: str
    engine: str
    gpu: str
    library: str
    status: Status
    seconds: float
    megabytes: float


COLUMNS = [field.name for field in fields(Built)]


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def append(folder: Path, line: Built) -> None:
    """Add a line; the first one after the names of the columns.

    Where it cannot be written, the log says so: a build must not fail for it, nor the reason why one failed be lost.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerow(astuple(line))
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)


def seconds_of(folder: Path, checkpoint: str, engine: str, *, gpu: str, library: str) -> float | None:
    """What the last build of that name took for that checkpoint and such a GPU; None if there was none."""
    wanted = (checkpoint, engine, gpu, library, "built")
    taken = None
    for line in _lines(folder / NAME):
        if tuple(line[column] for column in ("checkpoint", "engine", "gpu", "library", "status")) == wanted:
            taken = float(line["seconds"])
    return taken


def _lines(path: Path) -> Iterator[dict[str, str]]:
    """Whole lines only: the last one may have been cut off."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if all(line.get(column) is not None for column in COLUMNS) and _is_number(line["seconds"]):
                yield line


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
