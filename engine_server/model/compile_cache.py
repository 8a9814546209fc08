# SPDX-License-Identifier: Apache-2.0
"""What was compiled, kept for the next start: a folder of torch's own caches that several processes share.

torch names its files by what they were made of (program, options, versions), writes most of them under another name first, and
reads whatever it finds. Compilers write in place: one that is killed leaves half a library, which ends whoever loads it. So a
list beside the files says what they hold once they are whole. Who compiles holds a lock, and first removes what is damaged or on
no list; another process that wants the same waits, and then finds it done. Weights are inputs of a program, so that files serve
every checkpoint of the same sizes. The folder may be removed whenever no engine starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch

from engine_server.file_lock import locked
from engine_server.folders import cache_folder

log = logging.getLogger("demon.engine")

VARIABLE, TRITONS = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
LIST, LOCK = "whole-files.json", "compiling.lock"
TORCHS_OWN_LOCKS = "locks"
_compiling = threading.Lock()
"""Variables are the whole process's: decoders of two devices must not compile at once."""


class CompileCache:
    """The folder for one kind of processor. Any number of threads and processes, of which one compiles at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def folder(self) -> Path:
        """Under the user's cache, for this torch and this processor: nothing of another one may be run."""
        return cache_folder() / "compiled" / f"torch-{torch.__version__}-{_slug(processor_of(self._device))}"

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Within, torch finds and leaves in the folder what it compiles. Waits for other processes that compile.

        Whoever sets `TORCHINDUCTOR_CACHE_DIR` keeps what was compiled there, as it comes. A folder that cannot be used is told of
        in the log, and then nothing is kept.
        """
        folder = self.folder
        with contextlib.ExitStack() as stack:
            stack.enter_context(_compiling)
            if _is_set_by_user():
                yield
                return
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked(folder / LOCK, waiting="another process compiles; waiting for it"))
                _sweep(folder)
            except OSError as error:
                log.warning("%s cannot be used (%s): what is compiled is lost at the end", folder, error)
                yield
                return
            ours = {VARIABLE: folder, TRITONS: folder / "triton"}
            if _is_set_by_user(TRITONS):
                del ours[TRITONS]
            with _environment(ours):
                yield
            try:
                _write_list(folder)
            except OSError as error:
                log.warning("%s cannot be written to (%s): what is compiled is lost at the end", folder, error)


def _is_set_by_user(variable: str = VARIABLE) -> bool:
    """Whether a variable was set by somebody; torch sets both, to its default and below it, where it compiles."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    value = os.environ.get(variable, "")
    return value != "" and not Path(value).is_relative_to(os.path.abspath(default_cache_dir()))


@contextlib.contextmanager
def _environment(values: Mapping[str, Path]) -> Iterator[None]:
    """Variables of the process have these values within, and their own again afterwards, whatever was set meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def processor_of(device: torch.device) -> str:
    """Whose code it is. Of a CPU its full name, since compilers use every instruction that it has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return f"cpu-{platform.machine()}-{hashlib.sha256(line.encode()).hexdigest()[:12]}"
    return f"cpu-{platform.machine()}-{platform.processor()}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+]+", "-", name).strip("-")


def _files(folder: Path) -> list[str]:
    """Everything that must be on the list."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(str(path) for path in found if str(path) not in (LIST, LOCK) and path.parts[0] != TORCHS_OWN_LOCKS)


def _sweep(folder: Path) -> None:
    """Remove what is not what the list says."""
    try:
        whole = msgspec.json.decode((folder / LIST).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        whole = {}
    except msgspec.DecodeError:
        log.warning("%s is damaged: everything is compiled anew", folder / LIST)
        whole = {}
    files = _files(folder)
    strange = [name for name in files if whole.get(name) != _hash(folder / name)]
    if damaged := [name for name in strange if name in whole]:
        log.warning(
            "%d compiled files in %s are damaged, among them %s: compiling anew", len(damaged), folder, damaged[0]
        )
    for name in strange:
        (folder / name).unlink()


def _write_list(folder: Path) -> None:
    """List what is there, which is whole now."""
    whole = {name: _hash(folder / name) for name in _files(folder)}
    handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".list-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(whole))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, folder / LIST)
    except OSError:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
