# SPDX-License-Identifier: Apache-2.0
"""A loop: a clip that is made again and again while it is played and its lanes move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine_server.diffusion.intake import Pacer
from engine_server.diffusion.request import SlotRequest
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import Span
from engine_server.tracks.clip import Clip
from engine_server.tracks.clip_result import DECODE_FRAMES, ClipResult
from engine_server.tracks.decodings import Decodings
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.windows import AudioWindow, HopId, Revision, WindowPlace

Version = tuple[int, int]
UNHEARD_TAKES = 16
"""Takes that feedback alone asks for while the playhead stands still: then nobody listens, and the loop rests until it moves."""


@dataclass
class _Flight:
    """A take in flight: its window, the source and configuration that it was made from, and the edits that it has heard."""

    window: int
    source: Tensor
    configuration: int
    revision: int


class Loop:
    """Takes are numbered from 1, which is also the `hop` of their `HopId`. One thread."""

    is_offline = False

    def __init__(
        self,
        track: str,
        epoch: int,
        clip: Clip,
        sound: TrackSound,
        checkpoint: Checkpoint,
        geometry: WindowGeometry,
        rate: int,
    ) -> None:
        self.clip = clip
        self.decodings = Decodings()
        self._track, self._epoch = track, epoch
        self._sound = sound
        self._checkpoint, self._geometry, self._rate = checkpoint, geometry, rate
        self._pacer = Pacer()
        self._playhead = clip.start
        self._takes = 0
        self._unheard = 0
        """Takes begun for the sake of feedback since the playhead moved."""
        self._flights: dict[int, _Flight] = {}
        self._begun: dict[int, Version] = {}
        """By window: what shaped the take that began last."""
        self._newest_of: dict[int, int] = {}
        """By window: the newest take that is finished."""
        self._result: ClipResult | None = None
        self._newest = np.zeros(0, dtype=np.int64)
        """By decode window: the newest take that it shows, 0 if there is none."""
        self._sent = np.zeros(0, dtype=np.int64)

    def is_done(self) -> bool:
        """A loop goes on until it is dropped."""
        return False

    def move_playhead(self, frame: int) -> None:
        """The frame of the timeline that sounds now."""
        if frame != self._playhead:
            self._unheard = 0
        self._playhead = frame

    def tick(self, depth: int) -> None:
        """A tick of the engine begins: takes are `ceil(steps / depth)` ticks apart."""
        self._pacer.tick(depth, self._sound.steps)
        self.decodings.tick()

    def waiting(self) -> HopId | None:
        """The take to begin next, whether or not its time has come; None while the loop rests."""
        if not (self.clip.is_encoded and self._sound.is_ready()) or self._next_window() is None:
            return None
        return HopId(self._track, self._epoch, self._takes + 1)

    def is_due(self) -> bool:
        """Whether it is time for another take."""
        return self._pacer.can_admit()

    def ring_key(self, hop: HopId) -> tuple[int, int]:
        """Frames and condition tokens of the take that waits."""
        k = self._window_of(hop)
        return len(self.clip.windows[k]), self.clip.condition(k).mask.shape[1]

    def frame_of(self, hop: HopId) -> int:
        """The first frame, on the timeline, of a take's window."""
        return self.clip.start + self.clip.windows[self._window_of(hop)].first

    def take(self, hop: HopId) -> SlotRequest:
        """The request of `waiting()`, which is then in flight."""
        k = self._window_of(hop)
        request = self.clip.request(k, hop, is_live=True)
        assert request.source is not None
        self._takes = hop.hop
        self._flights[hop.hop] = _Flight(k, request.source, self._sound.version, self.clip.table.revision)
        version = self._version()
        self._unheard = self._unheard + 1 if self._begun.get(k) == version else 0
        self._begun[k] = version
        self._pacer.admit()
        return request

    def revisions(self) -> Iterator[tuple[HopId, Revision]]:
        """The takes in flight that have not heard the newest edits, with what makes their step-time values as they are now.

        Takes of an earlier configuration finish as they are: what they name may not be here any more, and a newer take follows.
        """
        revision = self.clip.table.revision
        for number, flight in self._flights.items():
            if flight.revision != revision and flight.configuration == self._sound.version:
                flight.revision = revision
                step_time = partial(self.clip.step_time, flight.window, flight.source)
                yield HopId(self._track, self._epoch, number), step_time

    def complete(self, hop: HopId, latent: torch.Tensor) -> None:
        """Take a finished take `[T, C]`. One that a newer take of its window has overtaken is not shown."""
        k = self._flights.pop(hop.hop).window
        if hop.hop < self._newest_of.get(k, 0):
            return
        self._newest_of[k] = hop.hop
        self.clip.remember(k, latent)
        result = self._shown()
        self._newest[result.touched(result.put(k, latent))] = hop.hop

    def can_decode(self) -> bool:
        """Whether `decode_some` has something to do."""
        return self._next_decode() is not None

    def decode_some(self) -> list[AudioWindow]:
        """Begin the next window from the playhead on that the client does not have in its newest take; what is ready at once."""
        w = self._next_decode()
        if w is None:
            return []
        result, start, take = self._shown(), self.clip.start, int(self._newest[w])
        span = result.decode_span(w)
        place = WindowPlace(
            self._track, self._epoch, Span(start + span.first, start + span.stop), start + span.first, take
        )
        self.decodings.begin(place, result.begin_decode(w))
        self._sent[w] = take
        return self.decodings.take()

    def _version(self) -> Version:
        return self.clip.table.revision, self._sound.version

    def _next_window(self) -> int | None:
        """The window of the model that needs a take most: from the playhead on what is out of date, else what feeds back."""
        count = len(self.clip.windows)
        here = self._offset()
        first = min(range(count), key=lambda k: abs(2 * here - self.clip.windows[k].first - self.clip.windows[k].stop))
        version = self._version()
        for k in ((first + step) % count for step in range(count)):
            if self._begun.get(k) != version:
                return k
        return first if self._unheard < UNHEARD_TAKES and self.clip.has_feedback(first) else None

    def _window_of(self, hop: HopId) -> int:
        if hop.hop in self._flights:
            return self._flights[hop.hop].window
        k = self._next_window()
        assert k is not None
        return k

    def _next_decode(self) -> int | None:
        if self._result is None:
            return None
        stale = np.flatnonzero(self._newest > self._sent)
        ready = [int(w) for w in stale if self._result.can_decode(int(w))]
        if not ready:
            return None
        here, count = self._offset() // DECODE_FRAMES, self._result.decode_windows
        return min(ready, key=lambda w: (w - here) % count)

    def _offset(self) -> int:
        """The playhead's frame within the clip; its first if it is elsewhere."""
        offset = self._playhead - self.clip.start
        return offset if 0 <= offset < self.clip.frames else 0

    def _shown(self) -> ClipResult:
        if self._result is None:
            clip = self.clip
            self._result = ClipResult(
                self._checkpoint,
                self._geometry,
                rate=self._rate,
                start=clip.start,
                frames=clip.frames,
                windows=clip.windows,
            )
            self._newest = np.zeros(self._result.decode_windows, dtype=np.int64)
            self._sent = self._newest.copy()
        return self._result
