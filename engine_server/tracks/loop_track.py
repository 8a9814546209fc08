# SPDX-License-Identifier: Apache-2.0
"""A track in mode loop: clips that are played while they are made, and commits of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from engine_server.diffusion.request import SlotRequest
from engine_server.model.checkpoint import Checkpoint
from engine_server.tracks.clip import CLIP_LIMIT, Clip
from engine_server.tracks.commit import Commit
from engine_server.tracks.epoch_book import EpochBook
from engine_server.tracks.lanes import CLIP_LANES
from engine_server.tracks.loop import Loop
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.track import track_geometry
from engine_server.tracks.windows import NEVER, AudioWindow, HopId, Rank, Revision, RingKey
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.messages import Config


class LoopTrack:
    """See the module. One thread at a time; raises DemonError for what a client did wrong."""

    acted_lanes = CLIP_LANES
    clip_limit = CLIP_LIMIT
    skipped = 0
    """A loop skips nothing."""

    def __init__(
        self,
        track_id: str,
        checkpoint: Checkpoint,
        *,
        rate: int,
        latency: int,
        lanes: Sequence[str],
        config: Config,
        loras: LoraCatalogue,
    ) -> None:
        if latency != 0:
            raise DemonError("E_LATENCY", f"the latency is {latency} frames; a loop has none")
        self.id = track_id
        self.lanes = tuple(lanes)
        self.geometry = track_geometry(checkpoint, rate)
        self.sound = TrackSound(checkpoint, loras, config)
        self._checkpoint = checkpoint
        self._rate = rate
        self._runs: dict[int, Loop | Commit] = {}
        self.book = EpochBook()

    def begin(self, epoch: int, *, kind: str, start: int, feed_from: int, deliver_from: int, offline: bool) -> None:
        """Start or resume an epoch; see `begin` in SPEC.md. Raises `E_EPOCH`, `E_FIELD`, `E_LIMIT`."""
        if kind not in ("loop", "commit"):
            raise DemonError("E_FIELD", f"kind is {kind!r}; a track in mode loop begins loop and commit")
        if self.book.is_over(epoch):
            return
        self.book.check_next(epoch)
        clip = Clip(
            self._checkpoint,
            self.geometry,
            self.sound,
            rate=self._rate,
            lanes=self.lanes,
            start_sample=start,
            feed_from=feed_from,
        )
        if deliver_from < clip.start:
            raise DemonError("E_FIELD", f"deliver_from {deliver_from} lies before the start, frame {clip.start}")
        parts = (self.id, epoch, clip, self.sound, self._checkpoint, self.geometry, self._rate)
        self._runs[epoch] = Loop(*parts) if kind == "loop" else Commit(*parts, deliver_from)
        self.book.begin(epoch, feed_from)

    def feed(self, epoch: int, frame: int, audio: Floats, lanes: Floats, *, came_at: float | None = None) -> None:
        """Take input, whenever it came; see `feed` in SPEC.md. Raises `E_EPOCH`, `E_FEED_GAP`, `E_CLIP`, `E_LIMIT`."""
        if self.book.is_over(epoch):
            return
        run = self._run(epoch)
        if len(lanes) + sum(other.clip.frames for other in self._runs.values()) > 2 * CLIP_LIMIT:
            raise DemonError("E_LIMIT", f"the clips of a track have {2 * CLIP_LIMIT} frames at most: drop one")
        self._or_drop(epoch, lambda: run.clip.feed(frame, audio, lanes))
        self.book.feed(epoch, run.clip.expected)

    @property
    def held_bytes(self) -> int:
        """Of input that is kept as audio."""
        return sum(run.clip.held_bytes for run in self._runs.values())

    def finish(self, epoch: int, frame: int) -> None:
        """The clip is complete. Raises `E_EPOCH`, `E_FEED_GAP`, `E_CLIP`."""
        if self.book.is_over(epoch):
            return
        run = self._run(epoch)
        self._or_drop(epoch, lambda: run.clip.finish(frame))

    def edit(self, epoch: int, edits: Floats) -> None:
        """Change lanes of a loop; see `edit` in SPEC.md. Raises `E_EPOCH`, `E_FIELD`, `E_LANE_RANGE`."""
        run = self._run(epoch)
        if not isinstance(run, Loop):
            raise DemonError("E_EPOCH", f"epoch {epoch} is a commit, whose lanes are as they were fed")
        run.clip.table.edit(edits)

    def skip(self, epoch: int, wanted: int) -> None:
        """The client wants what comes from `wanted` on: in a loop the frame that sounds now."""
        if epoch in self._runs:
            self._runs[epoch].move_playhead(wanted)

    def drop(self, epoch: int) -> None:
        """Forget an epoch, also one that has not begun yet."""
        self._runs.pop(epoch, None)
        self.book.drop(epoch)

    def has_epoch(self, epoch: int) -> bool:
        """Whether the epoch is still there."""
        return epoch in self._runs

    def waiting(self) -> list[HopId]:
        """What could begin: the next take of every loop, due or not, and the next round of every commit."""
        return [hop for run in self._runs.values() if (hop := run.waiting())]

    def is_due(self, hop: HopId) -> bool:
        """Whether it is time for something that waits."""
        return self._runs[hop.epoch].is_due()

    def rank(self, hop: HopId) -> Rank:
        """Loops come after live streams, and before what is offline."""
        return Rank.OFFLINE if self._runs[hop.epoch].is_offline else Rank.LOOP

    def deadline(self, hop: HopId) -> float:
        """A loop is never late: what is older sounds meanwhile."""
        return NEVER

    def wants(self, hop: HopId) -> bool:
        """Whether what is in flight is of use: all of an epoch that is still there."""
        return hop.epoch in self._runs

    def ring_key(self, hop: HopId) -> RingKey:
        """Frames and condition tokens of a request."""
        return self._runs[hop.epoch].ring_key(hop)

    def frame_of(self, hop: HopId) -> int:
        """The first frame of what is made."""
        return self._runs[hop.epoch].frame_of(hop)

    def tick(self, depth: int, now: float) -> None:
        """A step of the engine begins."""
        for run in self._runs.values():
            run.tick(depth)

    def take(self, hop: HopId) -> SlotRequest:
        """The slot request of something that waits."""
        return self._runs[hop.epoch].take(hop)

    def revisions(self) -> Iterator[tuple[HopId, Revision]]:
        """Requests in flight whose step-time values have changed, and those values."""
        for run in self._runs.values():
            yield from run.revisions()

    def complete(self, hop: HopId, latent: torch.Tensor) -> list[AudioWindow]:
        """Take a finished generation `[T, C]`; its audio comes from `work`."""
        if run := self._runs.get(hop.epoch):
            run.complete(hop, latent)
        return []

    def open_epochs(self) -> list[int]:
        """Epochs with something to encode or to decode."""
        return [epoch for epoch, run in self._runs.items() if run.clip.can_encode() or run.can_decode()]

    def work(self, epoch: int) -> list[AudioWindow]:
        """Encode a bit of what has come in for an epoch, and begin to decode a window of what is made; what is ready at once."""
        run = self._runs[epoch]
        run.clip.encode_some()
        windows = run.decode_some()
        self._close_if_done(epoch)
        return windows

    def decoding(self) -> list[int]:
        """Epochs with audio that is being made."""
        return [epoch for epoch, run in self._runs.items() if run.decodings]

    def is_decoding(self, hop: HopId) -> bool:
        """A take is finished when its latents are: `work` decodes as much of it as is wanted."""
        return False

    def collect(self, epoch: int) -> list[AudioWindow]:
        """The windows of an epoch that were begun before this step; waits for them. Raises ValueError as `Decoding.result`."""
        windows = self._runs[epoch].decodings.take(waits=True)
        self._close_if_done(epoch)
        return windows

    def _close_if_done(self, epoch: int) -> None:
        if self._runs[epoch].is_done():
            del self._runs[epoch]
            self.book.finish(epoch)

    def _run(self, epoch: int) -> Loop | Commit:
        if epoch not in self._runs:
            raise DemonError("E_EPOCH", f"epoch {epoch} is not open")
        return self._runs[epoch]

    def _or_drop(self, epoch: int, action: Any) -> None:
        try:
            action()
        except DemonError as error:
            if error.code == "E_CLIP":
                self.drop(epoch)
            raise
