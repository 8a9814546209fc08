# SPDX-License-Identifier: Apache-2.0
"""What the server knows of one connected plugin: its lanes, when it was heard, and the windows it has not acknowledged."""

from __future__ import annotations

import itertools
import math
import secrets
from collections import deque

import numpy as np

from engine_server.serve.limits import Account, Limits, Meter
from engine_server.tracks.track import MAX_FRAMES_HELD
from engine_server.tracks.windows import AudioWindow
from shared_protocol.codec import Floats, Packet, encode
from shared_protocol.errors import DemonError
from shared_protocol.lanes import load_lanes
from shared_protocol.messages import Hello, Window

RESEND_AFTER_S = 2.0
RESENT_AGAIN_S = 0.2
"""Each time costs as much as all that is sent again."""
HEARD_AGAIN_S = 0.2
"""Less than a plugin lets pass between pings while it streams."""
AUDIO_PREFIX = b"a"
DROPPED_KNOWN = 64
_numbers = itertools.count()


class _Pending:
    """A window that has not been acknowledged."""

    def __init__(self, window: AudioWindow) -> None:
        self.window = window
        self.is_sent = False


class Client:
    """One `hello` of one routing id. Belongs to the socket thread.

    Every hello is a new track to the engine, so that what an old one still has in flight cannot reach the new one, and gets a
    ticket of its own, so that audio that was sent before it cannot be taken for its own.
    """

    def __init__(
        self,
        routing_id: bytes,
        hello: Hello,
        now: float,
        *,
        user: str = "",
        meter: Meter | None = None,
        account: Account | None = None,
    ) -> None:
        self.routing_id = routing_id
        self.account = account or Account(Limits())
        self.user = user
        """The public key of whoever said hello, where the server has keys: nobody else may speak for the track."""
        self.meter = meter or Meter(Limits())
        self.ticket = secrets.token_hex(16)
        self.audio_id = AUDIO_PREFIX + bytes.fromhex(self.ticket)
        """Routing id of the client's audio socket."""
        self.track_id = f"{routing_id.hex()[:12]}.{next(_numbers)}"
        self.hello = hello
        self.greeted_at = self.last_heard = now
        self._outbox: list[_Pending] = []
        self._dropped: deque[int] = deque(maxlen=DROPPED_KNOWN)
        """The last epochs that were dropped: a step that was under way may still bring a window of one."""
        self._takes: dict[tuple[int, int], AudioWindow] = {}
        """Windows of loops that wait to be sent, by epoch and frame: the newest take of each."""
        self._encoded: tuple[AudioWindow, list[bytes]] | None = None
        """The window that is to be sent next, if its bytes have been asked for."""
        self._sent = self._arrived = self._lost = 0
        """Frames of windows since the welcome. Arrived: received, or lost on the way, which is part of it."""
        self._moved_at = now
        """When the client last received or acknowledged something, or was sent something after a rest."""
        self._resent_at = -math.inf
        self._heard, self._heard_at = (0, 0), now
        """The last ping that the engine was told of."""
        rows = load_lanes()
        infinite = float("inf")
        self._low = np.array([rows[i].minimum if i in rows else -infinite for i in hello.lanes], dtype=np.float32)
        self._high = np.array([rows[i].maximum if i in rows else infinite for i in hello.lanes], dtype=np.float32)

    @property
    def frames_held(self) -> int:
        """Frames of windows that wait to be sent or acknowledged."""
        return sum(pending.window.count for pending in self._outbox) + sum(w.count for w in self._takes.values())

    @property
    def frames_in_flight(self) -> int:
        """Frames of windows that were sent and have neither been received nor lost, as far as is known."""
        return self._sent - self._arrived

    def check_feed(self, lanes: Floats) -> None:
        """Raise DemonError `E_LANE_RANGE` or `E_LIMIT`. Unknown lanes may hold any finite value."""
        outside = ((lanes < self._low) | (lanes > self._high)).any(axis=0)
        if outside.any():
            lane = load_lanes()[self.hello.lanes[int(np.flatnonzero(outside)[0])]]
            raise DemonError("E_LANE_RANGE", f"{lane.id} takes values from {lane.minimum:g} to {lane.maximum:g}")
        if self.frames_held > MAX_FRAMES_HELD:
            raise DemonError("E_LIMIT", f"more than {MAX_FRAMES_HELD} frames of windows wait to be acknowledged")

    def deliver(self, window: AudioWindow) -> None:
        """Queue a finished window. A loop's takes the place of an older one that still waits, and is sent once."""
        if window.epoch in self._dropped:
            return
        if window.take:
            self._takes[window.epoch, window.frame] = window
            return
        self._outbox.append(_Pending(window))

    def acknowledge(self, epoch: int, wanted: int, received: int, now: float) -> None:
        """Forget what has arrived or is not wanted any more (all, if epoch is 0), before it is encoded if it was not sent.

        What was sent and has not arrived becomes due again once nothing has moved for RESEND_AFTER_S.
        """
        before = len(self._outbox)
        self._outbox = [
            pending
            for pending in self._outbox
            if epoch and (pending.window.epoch, pending.window.frame + pending.window.count) > (epoch, wanted)
        ]
        received = min(received, self._sent)
        self._lost = min(self._lost, self._sent - received)  # what was given up may arrive after all
        has_moved = received + self._lost > self._arrived or len(self._outbox) < before
        is_waiting = self._awaits_something()
        self._arrived = max(self._arrived, received + self._lost)
        if has_moved or not is_waiting:
            self._moved_at = now
        elif now - self._moved_at > RESEND_AFTER_S:
            self._send_again(now)

    def resend(self, now: float) -> None:
        """What was sent and is not acknowledged was lost with its connection: it is due again, once in RESENT_AGAIN_S at most."""
        if now - self._resent_at > RESENT_AGAIN_S:
            self._send_again(now)

    def _send_again(self, now: float) -> None:
        self._moved_at = self._resent_at = now
        self._lost += self.frames_in_flight
        self._arrived = self._sent
        for pending in self._outbox:
            pending.is_sent = False

    def has_news(self, epoch: int, wanted: int, now: float) -> bool:
        """Whether the engine should hear of a ping: it tells something new, or has not been heard of for a while.

        The latter since a ping may have overtaken the begin of its epoch.
        """
        is_new = (epoch, wanted) != self._heard or now - self._heard_at > HEARD_AGAIN_S
        if epoch == 0 or not is_new:
            return False
        self._heard, self._heard_at = (epoch, wanted), now
        return True

    def _awaits_something(self) -> bool:
        """Whether something was sent of which it is not known that it has arrived, or that it was of use."""
        return self.frames_in_flight > 0 or any(pending.is_sent for pending in self._outbox)

    def drop(self, epoch: int) -> None:
        """Forget the windows of an epoch, also those to come."""
        self._dropped.append(epoch)
        self._outbox = [pending for pending in self._outbox if pending.window.epoch != epoch]
        self._takes = {key: window for key, window in self._takes.items() if key[0] != epoch}

    def due(self) -> AudioWindow | None:
        """The next window to send, as far as the client's credit goes."""
        window = next(iter(self._takes.values()), None) or next(
            (pending.window for pending in self._outbox if not pending.is_sent), None
        )
        if window and self.frames_in_flight and self.frames_in_flight + window.count > self.hello.credit:
            return None
        return window

    def encoded(self, window: AudioWindow) -> list[bytes]:
        """The message of `window`, from `due`. Packed once only, however often a full connection makes the server try again."""
        if self._encoded is None or self._encoded[0] is not window:
            header = Window(window.epoch, window.take, window.frame, window.count, self.hello.packing)
            self._encoded = window, encode(Packet(header, window.audio))
        return self._encoded[1]

    def mark_sent(self, window: AudioWindow, now: float) -> None:
        """`window`, from `due`, is on its way."""
        self._encoded = None
        if not self._awaits_something():
            self._moved_at = now
        self._sent += window.count
        if window.take:
            del self._takes[window.epoch, window.frame]
            return
        for pending in self._outbox:
            if pending.window is window:
                pending.is_sent = True
