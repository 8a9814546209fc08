# SPDX-License-Identifier: Apache-2.0
"""Files that nobody else may read: checked when they are read, whole when they are written. Any thread, any process."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shared_protocol.errors import DemonError

OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
MOST_BYTES = 2**20


def make_private_folder(folder: Path) -> None:
    """Create a folder with mode 0700 if it is not there. Raises DemonError `E_KEYS`, also for one that others may enter."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise _failed(folder, error) from error
    check_private_folder(folder)


def is_there(folder: Path) -> bool:
    """Whether there is something of that name. Raises DemonError `E_KEYS` where this user may not even see that."""
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failed(folder, error) from error
    return True


def check_private_folder(folder: Path) -> None:
    """Raise DemonError `E_KEYS` unless only this user may look into the folder, which must be there."""
    try:
        found = folder.stat()
    except OSError as error:
        raise _failed(folder, error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise DemonError("E_KEYS", f"{folder} is not a folder; move it away")
    _check_owner(folder, found, mode=700)


def read_private(path: Path) -> bytes | None:
    """A file's content, None if it is not there.

    Raises DemonError `E_KEYS` if others could have read or written it, or if it is no plain file.
    """
    try:
        # Without O_NONBLOCK a pipe in the file's place would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error) from error
    try:
        found = os.fstat(handle)  # of what was opened, not of what may have taken its place
        if not stat.S_ISREG(found.st_mode):
            raise DemonError("E_KEYS", f"{path} is not a plain file; move it away")
        _check_owner(path, found, mode=600)
        if found.st_size > MOST_BYTES:
            raise DemonError("E_KEYS", f"{path} has {found.st_size} bytes, which is not a key file; move it away")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(handle)


def write_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in place, whole or not at all, also if the machine stops meanwhile. Raises DemonError `E_KEYS`."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        create_private(part, content)
        os.replace(part, path)
        _settle(path.parent)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def create_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600. Raises FileExistsError rather than replace one, and OSError; then nothing is left."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes that would change it too. Blocks; they hold it for milliseconds."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets go


def _settle(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_owner(path: Path, found: os.stat_result, *, mode: int) -> None:
    if found.st_uid != os.geteuid():
        raise DemonError("E_KEYS", f"{path} belongs to another user; run: chown {os.geteuid()} '{path}'")
    if found.st_mode & OPEN_TO_OTHERS:
        raise DemonError(
            "E_KEYS", f"others may read {path} (mode {stat.S_IMODE(found.st_mode):03o}); run: chmod {mode} '{path}'"
        )


def _failed(path: Path, error: OSError) -> DemonError:
    return DemonError("E_KEYS", f"{path}: {error.strerror}")
