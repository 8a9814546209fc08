# SPDX-License-Identifier: Apache-2.0
"""The plugin in a host process, in one of the ways of a plan; what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hosts.bounce import BUNDLE, start_bounce
from hosts.parameters import parameter_name, proportion
from shared_protocol.codec import Floats
from tests.soak.music import DENOISE, LATENCY, PROMPT_ENVIRONMENT, RATE, Music
from tests.soak.plans import BOUNCES, Plan
from tests.soak.starter import ROOT
from tests.soak.watch import ProbeWatch

BOUNCE_PIECES, COMMIT_PIECES, PLAY_PIECES = 4, 3, 4
PLAY_S = 26.0
POLL_S = 0.005
LOOP_PIECE = 2 * 61_440
"""Samples, on the grid of every block size used: a clip of 2.56 s, for which a take is soon made."""
LOOP_PASSES = 12
TURN_AT = 5 * LOOP_PIECE + LOOP_PIECE // 2
"""When the knob is turned, from DENOISE to TURNED: amid the faults. Everything that is heard then has to be made again."""
TURNED = 0.5
CLIP_RESULTS = ("capture", "bounce0", "reopened")
LOOP_ENVIRONMENT = {"DEMON_MODE": "loop", "DEMON_CAPTURE": "1"}


class HostRun:
    """A host under way. Close it."""

    def __init__(
        self,
        process: subprocess.Popen,
        folder: Path,
        blocks: int,
        results: Mapping[str, Path],
        *,
        is_live: bool = False,
        is_loop: bool = False,
        passes: int = 1,
        job: object = None,
    ) -> None:
        self.process = process
        self.is_live = is_live
        """Whether blocks pass at their own pace, and not when the engine has answered."""
        self.is_loop = is_loop
        """Whether it plays a loop, which the engine sends nothing while it rests."""
        self._passes = passes
        """Of as many blocks each. The first of several captures, without the engine."""
        self._job = job
        """Kept alive: its folder goes with it."""
        self.folder = folder
        self.said = ""
        """Its standard error, once it is closed."""
        self._blocks = blocks
        self._results = results
        self._is_closed = False
        self.watch = ProbeWatch(probe_of(folder))

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def progress(self) -> float:
        """Share of the blocks that have been processed."""
        return self.watch.played / self._blocks

    @property
    def stage(self) -> int:
        """The number of the pass that is under way."""
        return int(self.progress * self._passes)

    @property
    def is_fed(self) -> bool:
        """Whether it needs the engine's audio: a pass that does, and of which some has been processed already."""
        return self._passes == 1 or (self.stage > 0 and self.progress * self._passes > self.stage)

    def wait_for_progress(self, at: float, until: float) -> bool:
        """Whether it came so far, before it ended and before a time."""
        while self.is_alive and time.monotonic() < until:
            if self.progress >= at:
                return True
            time.sleep(POLL_S)
        return False

    def wait(self, until: float) -> bool:
        """Whether it ended before a time."""
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def results(self) -> dict[str, Floats]:
        """What it has written, by name, once it is closed. Raises RuntimeError with its last words when something is missing."""
        missing = [name for name, path in self._results.items() if not path.exists()]
        if missing:
            raise RuntimeError(f"the host ended with {self.process.returncode} without {missing}: {self.said[-2000:]}")
        return {name: np.load(path) for name, path in self._results.items()}

    def receipts(self) -> list[dict]:
        """Of its renders: `complete` and `missing_frames` say whether every frame came from the engine."""
        return [json.loads(path.read_text()) for path in (self.folder / "home").rglob("*.receipt.json")]

    def close(self) -> None:
        """Kill it if it still runs, and release what belongs to it. Repeats do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.is_alive:
            self.process.kill()
        self.process.wait()
        if self.process.stderr and self.process.stdout:  # a bounce's; the sessions' words are in a file
            self.said = self.process.stderr.read()
            self.process.stderr.close()
            self.process.stdout.close()
        elif (words := self.folder / "said.txt").exists():
            self.said = words.read_text(errors="replace")
        self.watch.close()

    def __enter__(self) -> HostRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_host(plan: Plan, endpoint: str, folder: Path, *, pieces: int | None = None) -> HostRun:
    """Start what the plan says with the engine at an address. pieces: of a shorter bounce."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = PROMPT_ENVIRONMENT | {
        "DEMON_ENDPOINT": endpoint,
        "DEMON_TIMEOUT_S": str(plan.timeout_s),
        "DEMON_PROBE_LOG": str(probe_of(folder)),
        "XDG_DATA_HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home"),
    }
    if plan.way in BOUNCES:
        return _start_bounce(plan, endpoint, folder, environment, pieces or BOUNCE_PIECES)
    starts = {"commit": _start_commit, "playing": _start_playing, "looping": _start_looping}
    return starts[plan.way](plan, folder, environment)


def probe_of(folder: Path) -> Path:
    """The probe log of a run."""
    return folder / "probe.jsonl"


def _start_bounce(plan: Plan, endpoint: str, folder: Path, environment: Mapping[str, str], pieces: int) -> HostRun:
    source = Music.source(pieces)
    job = start_bounce(
        plan.way,
        source,
        endpoint=endpoint,
        block=plan.block,
        lanes={"denoise": DENOISE},
        state={"steps": str(plan.steps)},
        environment=environment,
    )
    return HostRun(job.process, folder, (source.shape[1] + LATENCY) // plan.block, {"result": job.result}, job=job)


def _start_commit(plan: Plan, folder: Path, environment: Mapping[str, str]) -> HostRun:
    source = Music.source(COMMIT_PIECES)
    np.save(folder / "in.npy", source)
    job = {"bundle": str(BUNDLE), "source": str(folder / "in.npy"), "folder": str(folder), "rate": RATE,
           "blocks": [plan.block], "lanes": {}}  # fmt: skip
    process = _start_session("clip_session.py", job, folder, {**environment, **LOOP_ENVIRONMENT})
    blocks = len(CLIP_RESULTS) * source.shape[1] // plan.block
    results = {name: folder / f"{name}.npy" for name in CLIP_RESULTS}
    return HostRun(process, folder, blocks, results, passes=len(CLIP_RESULTS))


def _start_playing(plan: Plan, folder: Path, environment: Mapping[str, str]) -> HostRun:
    np.save(folder / "in.npy", Music.source(PLAY_PIECES))
    return _play(plan, folder, environment, {"seconds": PLAY_S, "script": ""})


def _start_looping(plan: Plan, folder: Path, environment: Mapping[str, str]) -> HostRun:
    """The first pass captures the clip."""
    np.save(folder / "in.npy", Music.clip(LOOP_PIECE))
    job = {"seconds": LOOP_PASSES * LOOP_PIECE / RATE, "script": f"loop 0 {LOOP_PIECE}",
           "knob": (TURN_AT, parameter_name("denoise"), proportion("denoise", TURNED))}  # fmt: skip
    return _play(plan, folder, {**environment, **LOOP_ENVIRONMENT}, job)


def _play(plan: Plan, folder: Path, environment: Mapping[str, str], what: Mapping) -> HostRun:
    job = {"bundle": str(BUNDLE), "source": str(folder / "in.npy"), "result": str(folder / "out.npy"),
           "block": plan.block, "paced": True, "offline": False, **what}  # fmt: skip
    process = _start_session("play_session.py", job, folder, environment)
    blocks = int(job["seconds"] * RATE) // plan.block
    is_loop = plan.way == "looping"
    return HostRun(process, folder, blocks, {"result": folder / "out.npy"}, is_live=True, is_loop=is_loop)


def _start_session(script: str, job: Mapping, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    command: Sequence[str] = (sys.executable, f"tests/hosts/{script}", json.dumps(job))
    with (folder / "said.txt").open("wb") as said:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
