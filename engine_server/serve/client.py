# SPDX-License-Identifier: Apache-2.0
"""What the server knows of one connected plugin: its lanes, when it was heard, and the windows it has not acknowledged."""

from __future__ import annotations

import itertools

import numpy as np

from engine_server.tracks.track import MAX_FRAMES_HELD
from engine_server.tracks.windows import AudioWindow
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.lanes import load_lanes
from shared_protocol.messages import Hello

RESEND_AFTER_S = 2.0
_numbers = itertools.count()


class _Pending:
    """A window that has not been acknowledged."""

    def __init__(self, window: AudioWindow) -> None:
        self.window = window
        self.sent_at: float | None = None


class Client:
    """One `hello` of one routing id. Belongs to the socket thread.

    Every hello is a new track to the engine, so that what an old one still has in flight cannot reach the new one.
    """

    def __init__(self, routing_id: bytes, hello: Hello, now: float) -> None:
        self.routing_id = routing_id
        self.track_id = f"{routing_id.hex()[:12]}.{next(_numbers)}"
        self.hello = hello
        self.last_heard = now
        self._outbox: list[_Pending] = []
        self._takes: dict[tuple[int, int], AudioWindow] = {}
        """Windows of loops that wait to be sent, by epoch and frame: the newest take of each."""
        rows = load_lanes()
        infinite = float("inf")
        self._low = np.array([rows[i].minimum if i in rows else -infinite for i in hello.lanes], dtype=np.float32)
        self._high = np.array([rows[i].maximum if i in rows else infinite for i in hello.lanes], dtype=np.float32)

    def check_feed(self, lanes: Floats) -> None:
        """Raise DemonError `E_LANE_RANGE` or `E_LIMIT`. Unknown lanes may hold any finite value."""
        outside = ((lanes < self._low) | (lanes > self._high)).any(axis=0)
        if outside.any():
            lane = load_lanes()[self.hello.lanes[int(np.flatnonzero(outside)[0])]]
            raise DemonError("E_LANE_RANGE", f"{lane.id} takes values from {lane.minimum:g} to {lane.maximum:g}")
        if sum(pending.window.count for pending in self._outbox) > MAX_FRAMES_HELD:
            raise DemonError("E_LIMIT", f"more than {MAX_FRAMES_HELD} frames of windows wait to be acknowledged")

    def deliver(self, window: AudioWindow) -> None:
        """Queue a finished window. A loop's takes the place of an older one that still waits, and is sent once."""
        if window.take:
            self._takes[window.epoch, window.frame] = window
            return
        self._outbox.append(_Pending(window))

    def acknowledge(self, epoch: int, wanted: int, now: float) -> None:
        """Forget what has arrived (all, if epoch is 0); what was sent long ago and is still wanted becomes due again."""
        self._outbox = [
            pending
            for pending in self._outbox
            if epoch and (pending.window.epoch, pending.window.frame + pending.window.count) > (epoch, wanted)
        ]
        oldest = self._outbox[0].sent_at if self._outbox else None
        if oldest is not None and now - oldest > RESEND_AFTER_S:
            for pending in self._outbox:
                pending.sent_at = None

    def drop(self, epoch: int) -> None:
        """Forget the windows of an epoch."""
        self._outbox = [pending for pending in self._outbox if pending.window.epoch != epoch]
        self._takes = {key: window for key, window in self._takes.items() if key[0] != epoch}

    def due(self) -> AudioWindow | None:
        """The next window to send."""
        if self._takes:
            return next(iter(self._takes.values()))
        return next((pending.window for pending in self._outbox if pending.sent_at is None), None)

    def mark_sent(self, window: AudioWindow, now: float) -> None:
        """`window`, from `due`, is on its way."""
        if window.take:
            del self._takes[window.epoch, window.frame]
            return
        for pending in self._outbox:
            if pending.window is window:
                pending.sent_at = now
