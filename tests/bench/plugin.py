# SPDX-License-Identifier: Apache-2.0
"""What the plugin costs its host, beside a plugin that does nothing in the same host loop: demon_host_bench.

Where the mode matters it is a parameter (`MODES`). The editor's pictures are timed by demon_editor_pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts.bounce import BUNDLE, ROOT
from tests.bench.measure import Row, Target, compared
from tests.bench.models import Effort

BUILD = BUNDLE.parent
PROGRAM = BUILD / "tests" / "hosts" / "host" / "demon_host_bench"
PICTURES = BUILD / "tests" / "cpp" / "demon_editor_pictures"
EMPTY = BUILD / "tests" / "hosts" / "host" / "DEMON_EMPTY_artefacts" / "Release" / "VST3" / "Empty.vst3"
CHECKPOINT = ROOT / "tests" / "checkpoint"
NOBODY = "tcp://127.0.0.1:9"
BLOCK, RATE = 64, 48_000
BLOCK_US = 1e6 * BLOCK / RATE


@dataclass(frozen=True)
class Mode:
    """A way to play, for the programs that are measured."""

    environment: Mapping[str, str]
    """Of an instance that starts in it."""
    playing: tuple[str, ...] = ()
    """Options of `demon_host_bench blocks`: how the host plays."""
    playing_with_engine: tuple[str, ...] = ()
    """Further ones, where there is an engine."""


MODES: Mapping[str, Mode] = {
    "Stream": Mode({"DEMON_MODE": "stream"}),
    "Loop": Mode({"DEMON_MODE": "loop", "DEMON_CAPTURE": "1"}, ("--loop", "2"), ("--wet", "1")),
}
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
MOST_OF_A_BLOCK = 0.01
PAINTS_PER_S = 30
"""How often the timeline may ask for a new picture."""


def rows(effort: Effort) -> Iterator[Row]:
    """Audio thread, memory, loading and, where there is a display to be had, the editor."""
    build()
    with engine() as endpoint:
        for name, mode in MODES.items():
            for address, what in ((endpoint, "engine"), (NOBODY, "no engine")):
                variables = {**mode.environment, "DEMON_ENDPOINT": address, "DEMON_LATENCY_S": "3"}
                playing = mode.playing + (mode.playing_with_engine if address == endpoint else ())
                yield from _blocks(f"{name}, {what}", playing, variables, effort)
                yield _loading(f"{name}, {what}", variables, effort)
            yield _memory(name, {**mode.environment, "DEMON_ENDPOINT": NOBODY}, effort)
    yield from _editor(effort)


def build() -> None:
    """The programs and the empty plugin, which nothing else needs."""
    targets = ("demon_host_bench", "demon_editor_pictures", "DEMON_EMPTY_VST3")
    command = ["cmake", "--build", str(BUILD), "--target", *targets]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def engine(model: str = str(CHECKPOINT)) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--model", model]
    command += ["--endpoint", "tcp://127.0.0.1:*"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("serving "):
            raise RuntimeError(f"the server did not start: {line!r}")
        yield line.split()[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(kind: str, *options: str, environment: Mapping[str, str], display: bool = False) -> list[list[float]]:
    """The series of our plugin and of the empty one, taken in turn."""
    return run_program([str(PROGRAM), kind, *options, str(BUNDLE), str(EMPTY)], environment, display)


def run_program(command: Sequence[str], environment: Mapping[str, str], display: bool = False) -> list[list[float]]:
    """What a program prints in its last line."""
    prefix = [str(shutil.which("xvfb-run")), "-a"] if display else []
    done = subprocess.run(
        [*prefix, *command],
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr[-2000:]}")
    series: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return series


def percentile(series: Sequence[float], percent: float) -> float:
    """The value that so many of a series do not exceed."""
    ordered = sorted(series)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _blocks(what: str, playing: Sequence[str], environment: Mapping[str, str], effort: Effort) -> Iterator[Row]:
    seconds = "1" if effort.quick else "30"
    for automation, how in (("0", ""), ("1", ", every lane moves")):
        options = ["--size", str(BLOCK), "--seconds", seconds, "--automation", automation, *playing]
        ours, empty = measure("blocks", *options, environment=environment)
        for name, percent in PERCENTILES.items():
            yield Row(
                f"{what}: audio thread's CPU time per block of {BLOCK}{how}, {name}",
                percentile(ours, percent) / 1000,
                "an empty plugin",
                percentile(empty, percent) / 1000,
                "us",
                target=Target("measured", MOST_OF_A_BLOCK * BLOCK_US) if name == "p99" else None,
                note=f"a block lasts {BLOCK_US:.0f} us",
            )


def _loading(what: str, environment: Mapping[str, str], effort: Effort) -> Row:
    ours, empty = measure("load", "--rounds", str(effort.rounds(20)), environment=environment)
    return compared(f"{what}: from the file to the first block", ours, "an empty plugin", empty)


def _memory(mode: str, environment: Mapping[str, str], effort: Effort) -> Row:
    ours, empty = measure("memory", "--instances", "3" if effort.quick else "8", environment=environment)
    added, added_empty = (statistics.median(series) / 2**20 for series in (ours, empty))
    return Row(f"{mode}: memory of an instance more", added, "an empty plugin", max(added_empty, 0.01), "MiB")


def _editor(effort: Effort) -> Iterator[Row]:
    """The share of one core that the process uses while the editor is open, beside the same without it."""
    if shutil.which("xvfb-run") is None:
        return
    environment = {"DEMON_ENDPOINT": NOBODY}
    for how, automation in (("playing", "0"), ("playing, every lane moves", "1")):
        options = ["--rounds", str(effort.rounds(5)), "--automation", automation]
        shown, hidden = (
            measure("editor", *options, "--shown", shown, environment=environment, display=True)[0] for shown in "10"
        )
        yield compared(
            f"editor open, {how}: CPU time of the process", shown, "closed", hidden, unit="% of a core",
            value=lambda share: 100 * share,
        )  # fmt: skip
    painted, filled = run_program([str(PICTURES), "--time", str(effort.rounds(50))], {}, display=True)
    yield compared(
        "editor: to paint all of it once, while a Stream plays",
        painted,
        "one colour",
        filled,
        target=Target("measured", 1000 / PAINTS_PER_S),
    )
