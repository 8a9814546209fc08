# SPDX-License-Identifier: Apache-2.0
"""What was measured of backends on this machine, kept in the user's cache: a choice is made once, and holds from start to start.

A file for every key. Who measures holds a lock, so that processes which start together measure once, undisturbed, and agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine_server.file_lock import locked
from engine_server.files import write_json
from engine_server.folders import cache_folder

log = logging.getLogger("demon.engine")
LOCK = "measuring.lock"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a measurement holds for: another one of these, and it is made anew."""

    demon: str
    checkpoint_hash: str
    processor: str
    """The GPU's name, or of a CPU what tells its kind."""
    threads: int
    dtype: str
    torch: str
    tensorrt: str
    """Library and version; empty on a CPU, and where there is none."""
    rows: int
    frames: int
    tokens: int


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend that was tried. ms: what a forward of the tracks' form takes; None if it is not to be taken."""

    backend: str
    ms: float | None
    trouble: str = ""
    """Why not."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    key: Key
    engine: str
    """Hash of the TensorRT engine that was measured; empty if there was none."""
    measured: list[Measured]
    measured_at: str
    """UTC, ISO 8601."""

    def of(self, backend: str) -> Measured | None:
        """What was measured of a backend."""
        return next((one for one in self.measured if one.backend == backend), None)


def folder() -> Path:
    """`backends` in the user's cache."""
    return cache_folder() / "backends"


def path_of(key: Key) -> Path:
    """Where a key's record lies."""
    return folder() / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:16]}.json"


def read_record(key: Key) -> Record | None:
    """What was measured, or None. A file that cannot be read counts as none, and the log says so."""
    path = path_of(key)
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s cannot be read (%s): what was measured is forgotten", path, error)
        return None
    return record if record.key == key else None


def write_record(record: Record) -> None:
    """Put it in the place of what was there, whole. Raises DemonError `E_OUTPUT`."""
    write_json(path_of(record.key), record)


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Have all other processes of this user wait with measuring. Raises OSError if the folder cannot be used."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder() / LOCK, waiting="another process measures backends; waiting for it"):
        yield
