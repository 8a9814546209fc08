# SPDX-License-Identifier: Apache-2.0
"""Bounce audio through the plugin in a host process of its own, so that neither a crash nor a hang reaches the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from shared_protocol.codec import Floats

ROOT = Path(__file__).parents[1]
BUNDLE = Path(os.environ.get("DEMON_BUNDLE", ROOT / "build" / "DEMON.vst3"))
DEFAULT_TIMEOUT_S = 300.0


class Job(msgspec.Struct):
    """What a host process is told. `lanes` are curves by lane id: a value per frame; a constant has one value."""

    host: str
    block: int
    rate: int
    bundle: str
    source: str
    result: str
    lanes: dict[str, list[float]]
    state: dict[str, str]


class Report(msgspec.Struct):
    """What a host process answers. Times in seconds, latency in samples."""

    latency: int
    load_s: float
    bounce_s: float


@dataclass
class HostProcess:
    """A bounce under way; `finish` waits for it."""

    process: subprocess.Popen[str]
    result: Path
    _folder: tempfile.TemporaryDirectory[str] = field(repr=False)

    def finish(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Floats, Report]:
        """The result `[2, N]`, latency-compensated, and the report. Raises RuntimeError or TimeoutExpired."""
        try:
            out, errors = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        if not self.result.exists():  # hosts have been seen to crash on close, after their work was done
            raise RuntimeError(f"the host failed ({self.process.returncode}): {errors[-2000:]}")
        audio = np.load(self.result)
        report = msgspec.json.decode(out.strip().splitlines()[-1], type=Report)
        self._folder.cleanup()
        return audio, report


def start_bounce(
    host: str,
    source: Floats,
    *,
    endpoint: str,
    rate: int = 48_000,
    block: int = 512,
    lanes: Mapping[str, float | Floats] | None = None,
    state: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> HostProcess:
    """Start a bounce of `source` `[2, N]` in `pedalboard` or `dawdreamer` with the engine at `endpoint`.

    `state` replaces attributes of the plugin's saved state (prompt, seed, ...), `environment` adds to the host's.
    """
    folder = tempfile.TemporaryDirectory(prefix="demon-host-")
    paths = {name: Path(folder.name) / f"{name}.npy" for name in ("source", "result")}
    np.save(paths["source"], source)
    curves = {
        lane: np.atleast_1d(np.asarray(curve, dtype=np.float64)).tolist() for lane, curve in (lanes or {}).items()
    }
    job = Job(host, block, rate, str(BUNDLE), str(paths["source"]), str(paths["result"]), curves, dict(state or {}))
    process = subprocess.Popen(
        [sys.executable, "-m", "hosts.worker"],
        cwd=ROOT,
        env=os.environ | {"DEMON_ENDPOINT": endpoint} | dict(environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(job).decode())
    process.stdin.close()
    process.stdin = None  # communicate() would flush it again
    return HostProcess(process, paths["result"], folder)


def bounce(host: str, source: Floats, **options) -> Floats:
    """`start_bounce` and wait: the result `[2, N]`."""
    return start_bounce(host, source, **options).finish()[0]
