# SPDX-License-Identifier: Apache-2.0
"""Progress of a bounce on the terminal: hops, speed against real time, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shared_protocol.timebase import FRAMES_PER_SECOND


@contextmanager
def bounce_progress(console: Console, frames: int, hop: int) -> Iterator[Callable[[int, int], None]]:
    """A bar for `frames` frames; yields what to call with (frames finished, frames in all)."""
    columns = (
        TextColumn("hop {task.fields[hop]}/{task.fields[hops]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.1f}x real time"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=frames, hop=0, hops=-(-frames // hop), speed=0.0)

        def on_window(done: int, total: int) -> None:
            speed = done / FRAMES_PER_SECOND / max(time.monotonic() - began, 1e-6)
            progress.update(task, completed=done, total=total, hop=-(-done // hop), speed=speed)

        yield on_window
