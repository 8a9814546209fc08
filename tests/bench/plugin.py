# SPDX-License-Identifier: Apache-2.0
"""What the plugin costs its host, beside a plugin that does nothing in the same host loop: demon_host_bench.

Where the mode matters it is a parameter (`MODES`).
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

from hosts.bounce import BUNDLE, ROOT
from tests.bench.measure import Row, Target, compared
from tests.bench.models import Effort

BUILD = BUNDLE.parent
PROGRAM = BUILD / "tests" / "hosts" / "host" / "demon_host_bench"
EMPTY = BUILD / "tests" / "hosts" / "host" / "DEMON_EMPTY_artefacts" / "Release" / "VST3" / "Empty.vst3"
CHECKPOINT = ROOT / "tests" / "checkpoint"
NOBODY = "tcp://127.0.0.1:9"
BLOCK, RATE = 64, 48_000
BLOCK_US = 1e6 * BLOCK / RATE
MODES: Mapping[str, Mapping[str, str]] = {"Stream": {}}
"""Environment of an instance that starts in the mode."""
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
MOST_OF_A_BLOCK = 0.01


def rows(effort: Effort) -> Iterator[Row]:
    """Audio thread, memory, loading and, where there is a display to be had, the editor."""
    build()
    with engine() as endpoint:
        for mode, environment in MODES.items():
            for address, what in ((endpoint, "engine"), (NOBODY, "no engine")):
                variables = {**environment, "DEMON_ENDPOINT": address, "DEMON_LATENCY_S": "3"}
                yield from _blocks(f"{mode}, {what}", variables, effort)
                yield _loading(f"{mode}, {what}", variables, effort)
            yield _memory(mode, {**environment, "DEMON_ENDPOINT": NOBODY}, effort)
    yield from _editor(effort)


def build() -> None:
    """The program and the empty plugin, which nothing else needs."""
    command = ["cmake", "--build", str(BUILD), "--target", "demon_host_bench", "DEMON_EMPTY_VST3"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def engine() -> Iterator[str]:
    """The address of a server of the small checkpoint."""
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--model", str(CHECKPOINT)]
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
    command = [str(PROGRAM), kind, *options, str(BUNDLE), str(EMPTY)]
    if display:
        command = [str(shutil.which("xvfb-run")), "-a", *command]
    done = subprocess.run(
        command, env=os.environ | dict(environment), capture_output=True, text=True, check=True, timeout=600
    )
    series: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return series


def percentile(series: Sequence[float], percent: float) -> float:
    """The value that so many of a series do not exceed."""
    ordered = sorted(series)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _blocks(what: str, environment: Mapping[str, str], effort: Effort) -> Iterator[Row]:
    seconds = "1" if effort.quick else "30"
    for automation, how in (("0", ""), ("1", ", every lane moves")):
        options = ["--size", str(BLOCK), "--seconds", seconds, "--automation", automation]
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
