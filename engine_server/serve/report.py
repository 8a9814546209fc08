# SPDX-License-Identifier: Apache-2.0
"""What a `state` message of the protocol carries, as JSON. docs/operator.md tells users what each number means."""

from __future__ import annotations

import os
import time

import msgspec
import psutil

from engine_server import __version__
from shared_protocol import messages as m

SERVER = f"demon-bridge {__version__}"
REASON_BYTES = 1024
STARTED = time.monotonic()


class ProcessReport(msgspec.Struct, frozen=True):
    """A server's process."""

    pid: int
    up_s: float
    """Since its libraries were loaded."""
    cpu_s: float
    """Of all its threads."""
    memory_bytes: int
    """Resident."""
    files: int


class TrackReport(msgspec.Struct, frozen=True):
    """A track. Frames are 1/25 s; counts are since its last hello."""

    track: str
    client: str
    """Name and version, as its hello said."""
    user: str
    """Of its key; empty without keys."""
    mode: m.Mode
    rate: int
    up_s: float
    generations: int
    generations_per_s: float
    misses: int
    worst_lateness_s: float
    skipped: int
    slots: int
    slot_ticks: int
    epochs: int
    feed_frames: int
    """Of feed that the engine has not taken yet."""
    window_frames: int
    """Of windows that are made and not acknowledged."""


class EngineReport(msgspec.Struct, frozen=True, tag="engine", tag_field="kind"):
    """An engine. generations, misses, skipped and slot_ticks count what was done for all tracks, also those that have left."""

    server: str
    checkpoint: str
    checkpoint_hash: str
    backend: str
    depth: int
    process: ProcessReport
    engine_cpu_s: float
    """Of the thread that steps the engine; those that it has help with the arithmetic do not count."""
    link_cpu_s: float
    """Of the thread that talks to the clients."""
    step_s: float
    """What a step takes, smoothed."""
    ticks_per_s: float
    slots: int
    """Of the rings, in use."""
    generations: int
    misses: int
    skipped: int
    slot_ticks: int
    tracks: int
    most_tracks: int
    reloads: int
    refusals: dict[str, int]
    """Messages that were refused, by the code that answered them."""
    track_reports: list[TrackReport]
    """Of the tracks that may be told of."""
    backend_reason: str = ""
    """Why this backend computes, at most REASON_BYTES of it; empty for those who are not told, and of earlier versions."""


class PlaceReport(msgspec.Struct, frozen=True):
    """An engine behind a gateway. endpoint, key: as in `redirect`."""

    endpoint: str
    key: str
    tracks: int
    most_tracks: int


class GatewayReport(msgspec.Struct, frozen=True, tag="gateway", tag_field="kind"):
    """A gateway."""

    server: str
    process: ProcessReport
    redirects: int
    refusals: dict[str, int]
    engines: list[PlaceReport]


Report = EngineReport | GatewayReport


def this_process() -> ProcessReport:
    """As of now. A millisecond or less."""
    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        return ProcessReport(
            pid=os.getpid(),
            up_s=time.monotonic() - STARTED,
            cpu_s=times.user + times.system,
            memory_bytes=process.memory_info().rss,
            files=process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        )


def cut(reason: str) -> str:
    """What a report has room for: JSON would write six bytes for each character that cannot be printed."""
    printable = "".join(letter if letter.isprintable() else " " for letter in reason)
    return printable.encode()[:REASON_BYTES].decode(errors="ignore")


def write_report(report: Report) -> m.State:
    """The message that carries it."""
    return m.State(msgspec.json.encode(report).decode())


def read_report(message: m.State) -> Report:
    """What a message carries. Raises msgspec.MsgspecError for one of another make."""
    return msgspec.json.decode(message.report, type=Report)
