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
from engine_server.model.checkpoint import load_checkpoint
from engine_server.serve.warm_up import forms_of_tracks

checkpoint = load_checkpoint("embedded", device="cpu", backend="compile")
seconds = []
checkpoint.decoder.warm_up(forms_of_tracks(checkpoint)[:{forms}], lambda ready: seconds.append(ready.seconds))
print(*seconds)
"""


def rows(effort: Effort) -> Iterator[Row]:
    """A form without adapters, and one with; in processes of their own, since a process forgets nothing."""
    with TemporaryDirectory() as home:
        first, second = (_seconds_by_form(home, 1 if effort.quick else 2) for _ in range(2))
    for kind, cold, warm in zip(("no adapters", "adapters"), first, second, strict=False):
        yield Row(f"embedded: warm-up of a form, {kind}, second start", warm, "first start", cold, "s")


def _seconds_by_form(home: str, forms: int) -> list[float]:
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", START.format(forms=forms)],
        env={**environment, "XDG_CACHE_HOME": home},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(seconds) for seconds in done.stdout.split("\n")[-2].split()]
