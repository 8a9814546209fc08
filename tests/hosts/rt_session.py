# SPDX-License-Identifier: Apache-2.0
"""The plugin in a host that plays in real time, under the checker of rtcheck.c.

A test calls `run_session`; it runs this file as a process of its own, with the checker preloaded.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("gcc")

RATE = 48_000
TEMPO = 97.5
BLOCK_SIZES = (64, 256, 480)
ODD_SIZES = (1, 479, 33, 250, 17, 480, 3)
SEED = 20
MAX_FRAMES = 12

Automation = Sequence[tuple[int, int, float]]
"""Offset in the block, parameter, value."""


# --- for tests ---


def build_checker(folder: Path) -> Path:
    """Compile the checker into a folder."""
    library = folder / "librtcheck.so"
    compile_c(HERE / "rtcheck.c", library, "-fPIC", "-shared", "-ldl", "-lpthread")
    return library


def compile_c(source: Path, out: Path, *flags: str) -> None:
    """Compile one file of C."""
    subprocess.run([str(COMPILER), "-O2", "-Wall", "-Wextra", str(source), "-o", str(out), *flags], check=True)


def preloaded(library: Path, **variables: str) -> dict[str, str]:
    """The environment of a process that runs under the checker."""
    others = os.environ.get("LD_PRELOAD", "").split()
    return os.environ | {"LD_PRELOAD": " ".join([str(library), *others])} | variables


@dataclass
class Report:
    """What a session found."""

    counts_syscalls: bool = False
    sections: int = 0
    blocks: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: str = ""
    """Where the first violation happened; empty without one."""
    traces: dict[str, str] = field(default_factory=dict)
    """Where each kind of violation happened first."""

    @property
    def violations(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if count}

    def explain(self) -> str:
        """For a person: what was violated, and where."""
        places = dict.fromkeys(trace for trace in (self.first, *self.traces.values()) if trace)
        return "\n\n".join([f"{self.violations} in {self.sections} sections", *map(add_source_lines, places)])


def run_session(
    library: Path, bundle: Path, *, seconds: float, pace: float = 0.0, offline: bool = False, variables: dict[str, str]
) -> Report:
    """Play some seconds of music in a process of its own. `pace` is the speed: 1 for real time, 0 without a pause."""
    command = [sys.executable, __file__, "--bundle", str(bundle), "--seconds", str(seconds), "--pace", str(pace)]
    command += ["--offline"] if offline else []
    environment = preloaded(library, **variables)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the session ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return Report(**json.loads(done.stdout.splitlines()[-1]))


def add_source_lines(trace: str) -> str:
    """The innermost frames of a trace, with function and line where the libraries have symbols for them."""
    return "\n".join(line + describe_frame(line) for line in trace.splitlines()[:MAX_FRAMES])


def describe_frame(line: str) -> str:
    """What addr2line knows of one frame."""
    match = re.match(r"\s+(/\S+) \+0x([0-9a-f]+)", line)
    if not match or not shutil.which("addr2line"):
        return ""
    address = hex(int(match[2], 16) - 1)  # inside the call, not after it
    command = ["addr2line", "-Cfpe", match[1], address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "  " + done.stdout.strip() if done.returncode == 0 and not done.stdout.startswith("??") else ""


# --- in the process ---


class Checker:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("rtcheck_name", "rtcheck_trace", "rtcheck_first"):
            getattr(self._library, name).restype = ctypes.c_char_p
        for name in ("rtcheck_count", "rtcheck_sections"):
            getattr(self._library, name).restype = ctypes.c_long

    def reset(self) -> None:
        self._library.rtcheck_reset()

    def report(self, blocks: int) -> Report:
        library = self._library
        return Report(
            counts_syscalls=bool(library.rtcheck_counts_syscalls()),
            sections=library.rtcheck_sections(),
            blocks=blocks,
            counts={name: library.rtcheck_count(kind) for kind, name in self._kinds()},
            first=library.rtcheck_first().decode(),
            traces={name: library.rtcheck_trace(kind).decode() for kind, name in self._kinds()},
        )

    def _kinds(self) -> Iterator[tuple[int, str]]:
        kind = 0
        while name := self._library.rtcheck_name(kind):
            yield kind, name.decode()
            kind += 1


class Player:
    """A host's audio thread: plays, locates, stops, and moves a parameter at every block."""

    def __init__(self, bundle: str, *, pace: float, offline: bool) -> None:
        import minihost

        self.plugin = minihost.Plugin(bundle, sample_rate=float(RATE), max_block_size=max(BLOCK_SIZES))
        self.plugin.non_realtime = offline
        parameters = [self.plugin.get_param_info(index) for index in range(self.plugin.num_params)]
        self._automatable = [index for index, info in enumerate(parameters) if info["is_automatable"]]
        self.blocks = 0
        self._position = 0
        self._pace = pace
        self._random = np.random.default_rng(SEED)
        self._noise = (0.1 * self._random.standard_normal((2, RATE))).astype(np.float32)
        self._due = time.monotonic()

    def locate(self, seconds: float) -> None:
        """Where the next block plays."""
        self._position = int(seconds * RATE)

    def play(self, seconds: float, *sizes: int) -> None:
        """Play on in blocks of these sizes in turn."""
        for size in self._sizes(seconds, sizes):
            self._process(size, playing=True)
            self._position += size

    def idle(self, seconds: float, size: int) -> None:
        """The host's transport stands, its audio runs on."""
        for each in self._sizes(seconds, (size,)):
            self._process(each, playing=False)

    def play_split(self, seconds: float, size: int) -> None:
        """Play on while automation cuts every block in pieces. This host gives all pieces the block's position, so
        that each is a locate."""
        for each in self._sizes(seconds, (size,)):
            self._process(each, playing=True, automation=self._automation(each))
            self._position += each

    def _sizes(self, seconds: float, sizes: tuple[int, ...]) -> Iterator[int]:
        played = 0
        for size in cycle(sizes):
            if played >= seconds * RATE:
                return
            yield size
            played += size
            self.blocks += 1
            self._wait(size)

    def _process(self, size: int, *, playing: bool, automation: Automation = ()) -> None:
        self.plugin.set_transport(TEMPO, 3, 4, self._position, self._position / RATE * TEMPO / 60, playing)
        self.plugin.set_param(self._any_parameter(), self._random.random())
        start = int(self._random.integers(RATE - size))
        heard = np.ascontiguousarray(self._noise[:, start : start + size])
        if automation:
            self.plugin.process_auto(heard, np.zeros_like(heard), [], automation)
        else:
            self.plugin.process(heard, np.zeros_like(heard))

    def _automation(self, size: int) -> Automation:
        offsets = np.sort(self._random.integers(size, size=3))
        return [(int(offset), self._any_parameter(), self._random.random()) for offset in offsets]

    def _any_parameter(self) -> int:
        return int(self._random.choice(self._automatable))

    def _wait(self, size: int) -> None:
        if self._pace > 0:
            self._due += size / RATE / self._pace
            time.sleep(max(0.0, self._due - time.monotonic()))


def play_session(player: Player, seconds: float) -> None:
    """Everything that a host does to an audio thread, about `seconds` of it."""
    for size in BLOCK_SIZES:
        player.play(0.2 * seconds, size)
    player.locate(90.0)  # forward ...
    player.play(0.1 * seconds, *ODD_SIZES)
    player.locate(1.2345)  # ... and back, off the grid of frames
    player.play(0.1 * seconds, *BLOCK_SIZES)
    player.idle(0.05 * seconds, 480)
    player.play(0.05 * seconds, 64)
    player.plugin.reset()
    player.play_split(0.05 * seconds, 256)
    for _ in range(10):  # a short loop
        player.locate(2.0)
        player.play(0.005 * seconds, 480)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pace", type=float, required=True)
    parser.add_argument("--offline", action="store_true")
    given = parser.parse_args()
    checker = Checker()
    player = Player(given.bundle, pace=given.pace, offline=given.offline)
    checker.reset()
    play_session(player, given.seconds)
    report = checker.report(player.blocks)
    player.plugin.close()
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
