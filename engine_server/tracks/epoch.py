# SPDX-License-Identifier: Apache-2.0
"""A stream's epoch: how far its input, its hops and its audio have come."""

from __future__ import annotations

from collections.abc import Callable

from engine_server.tracks.decodings import Decodings
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.stitch import Stitcher
from engine_server.tracks.timeline import Timeline
from engine_server.tracks.windows import NEVER, RingKey


class Epoch:
    """One unbroken run: which hops have been asked for, and which audio has been handed out. One thread."""

    def __init__(
        self, timeline: Timeline, stitcher: Stitcher, geometry: WindowGeometry, deliver_from: int, offline: bool
    ):
        self.timeline = timeline
        self.stitcher = stitcher
        self.offline = offline
        self.decodings = Decodings()
        self.heard_to = timeline.expected
        self.heard_at = NEVER
        """How far the host's input goes, and when it came to go as far."""
        self.next_audio_frame = deliver_from
        self.next_audio_hop = geometry.hop_finishing_audio(deliver_from)
        first_hop = geometry.hop_of(timeline.start)
        self.next_hop = max(first_hop, geometry.first_hop_for_audio(self.next_audio_hop))
        self._needed_for, self._needed_to = first_hop, geometry.input_needed_to(first_hop)
        self._geometry = geometry
        self._ring_key: tuple[tuple[int, int], RingKey] | None = None

    def hear(self, now: float) -> None:
        """Note that input has come, if it has."""
        if self.heard_to != self.timeline.expected:
            self.heard_to, self.heard_at = self.timeline.expected, now

    def has_next_hop(self) -> bool:
        """Whether the input of the next hop is complete. Asked at every step, of every track."""
        timeline = self.timeline
        if timeline.end is not None:
            return self._geometry.audio_span(self.next_hop - 1).stop < timeline.end
        return self.input_needed_to(self.next_hop) <= timeline.expected

    def input_needed_to(self, hop: int) -> int:
        """The frame after the last of input that a hop depends on; that of the last hop asked about is remembered."""
        if self._needed_for != hop:
            self._needed_for, self._needed_to = hop, self._geometry.input_needed_to(hop)
        return self._needed_to

    def ring_key(self, hop: int, version: int, make: Callable[[], RingKey]) -> RingKey:
        """That of a hop in a version of the sound: `make` is called once for as long as the hop waits."""
        if self._ring_key is None or self._ring_key[0] != (hop, version):
            self._ring_key = (hop, version), make()
        return self._ring_key[1]

    def is_done(self) -> bool:
        """Whether the input has ended and all its audio has been handed out."""
        end = self.timeline.end
        return end is not None and self.next_audio_frame >= end and not self.decodings
