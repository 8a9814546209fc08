# SPDX-License-Identifier: Apache-2.0
"""The warm-up of the compiled embedded model: of a first start, and of a second one that finds the first one's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

from tests.bench.measure import Row
from tests.bench.models import Effort

START = """
import os
import time
from engine_server.model.checkpoint import load_checkpoint

checkpoint = load_checkpoint("embedded", device="cpu", backend="compile")
for form in checkpoint.track_sizes.forms[:{forms}]:
    began, before = time.perf_counter(), sum(os.times()[:4])
    checkpoint.decoder.warm_up([form])
    print(sum(os.times()[:4]) - before, time.perf_counter() - began)
"""


def rows(effort: Effort) -> Iterator[Row]:
    """A form without adapters, and one with; in processes of their own, since a process forgets nothing.

    Compared is the processors' time, compilers' included, which other work on the machine does not lengthen much.
    """
    with TemporaryDirectory() as home:
        first, second = (_seconds_by_form(home, 1 if effort.quick else 2) for _ in range(2))
    for kind, cold, warm in zip(("no adapters", "adapters"), first, second, strict=False):
        name = f"embedded: warm-up of a form, {kind}, second start, processors' time"
        yield Row(name, warm[0], "first start", cold[0], "s", note=f"in {warm[1]:.0f} s, the first in {cold[1]:.0f} s")


def _seconds_by_form(home: str, forms: int) -> list[tuple[float, float]]:
    """For each form the processors' seconds and those that went by."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", START.format(forms=forms)],
        env={**environment, "XDG_CACHE_HOME": home},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures = (line.split() for line in done.stdout.splitlines()[-forms:])
    return [(float(processors), float(passed)) for processors, passed in figures]
