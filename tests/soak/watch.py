# SPDX-License-Identifier: Apache-2.0
"""The plugin's probe log, followed while it is written: it has no times, so they are noted when a line is seen."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.01
"""So late a line may be seen; a live host writes one every 10 ms, and the plugin's link writes what it finds every 1 to
10 ms."""


@dataclass(frozen=True)
class Seen:
    """A block, by `time.monotonic` of when its line was seen."""

    at: float
    is_connected: bool
    is_playing: bool
    is_wet: bool
    is_late: bool


class ProbeWatch:
    """Follows the file of DEMON_PROBE_LOG from construction to `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen: list[Seen] = []
        """Only grows, so that any thread may read it."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    @property
    def played(self) -> int:
        """Blocks so far that belong to the run: a paced host idles before it plays."""
        return self._played

    _played = 0

    def first(self, after: float, *, is_wet: bool = False) -> float | None:
        """When the first block of a connected plugin, whose sound was wet and in time if asked, was seen after a time."""
        for one in reversed_until(self.seen, after):
            if one.is_connected and (not is_wet or (one.is_wet and not one.is_late)):
                return one.at
        return None

    def close(self) -> None:
        """Read what is left, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        rest, offset = b"", 0
        while True:
            is_last = self._stopping.wait(POLL_S)
            if self._path.exists():
                with self._path.open("rb") as file:
                    file.seek(offset)
                    new = file.read()
                offset += len(new)
                *lines, rest = (rest + new).split(b"\n")
                self._note(lines)
            if is_last:
                return

    def _note(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        for text in lines:
            line = json.loads(text)
            is_playing = bool(line["playing"] or line["offline"])
            self._played += is_playing
            self.seen.append(Seen(now, bool(line["connected"]), is_playing, bool(line["wet"]), bool(line["late"])))


def reversed_until(seen: list[Seen], after: float) -> list[Seen]:
    """The blocks seen after a time, in their order; looked for from the end."""
    first = len(seen)
    while first and seen[first - 1].at >= after:
        first -= 1
    return seen[first:]
