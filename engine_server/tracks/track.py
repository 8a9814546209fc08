# SPDX-License-Identifier: Apache-2.0
"""One track: its configuration, its epochs, and the way from input to slot requests to windows of audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch

from engine_server.diffusion.noise import PositionNoise
from engine_server.diffusion.request import ConditionEntry, SlotRequest
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.conditioning import Condition
from engine_server.model.windows import Span
from engine_server.tracks.epoch import Epoch
from engine_server.tracks.epoch_book import EpochBook
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.lanes import ACTED_LANES, LORA_LANES, slot_fields
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.resample import margin
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.stitch import Stitcher
from engine_server.tracks.timeline import Timeline
from engine_server.tracks.windows import NEVER, AudioWindow, HopId, Rank, Revision, RingKey, WindowPlace
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.messages import Config
from shared_protocol.timebase import FRAMES_PER_SECOND

MAX_FRAMES_HELD = 3000
"""Frames of input that a track may hold, and of windows that it may leave unacknowledged: two minutes."""


def track_geometry(checkpoint: Checkpoint, rate: int) -> WindowGeometry:
    """The window geometry that a checkpoint asks for, at a host's rate."""
    sizes, codec = checkpoint.settings.geometry, checkpoint.codec
    return WindowGeometry(
        hop=sizes.hop,
        past=sizes.past,
        lookahead=sizes.lookahead,
        crossfade=sizes.crossfade,
        encoder_margin=codec.encoder_margin,
        decoder_margin=codec.decoder_margin,
        resampler_margin=margin(rate),
    )


class Track:
    """See the module. One thread at a time; raises DemonError for what a client did wrong."""

    acted_lanes = ACTED_LANES
    clip_limit = 0

    def __init__(
        self,
        track_id: str,
        checkpoint: Checkpoint,
        *,
        rate: int,
        latency: int,
        lanes: Sequence[str],
        config: Config,
        loras: LoraCatalogue | None = None,
    ) -> None:
        self.id = track_id
        self.geometry = track_geometry(checkpoint, rate)
        if latency < self.geometry.minimum_latency:
            raise DemonError(
                "E_LATENCY",
                f"the latency is {_in_words(latency)}; this model needs at least "
                f"{_in_words(self.geometry.minimum_latency)}",
            )
        self.latency = latency
        self.slack_s = (latency - self.geometry.minimum_latency + self.geometry.hop // 2) / FRAMES_PER_SECOND
        """Seconds that a hop may take once the input that it needs has come, to the frame."""
        self.sound = TrackSound(checkpoint, loras or LoraCatalogue(checkpoint), config)
        self._checkpoint = checkpoint
        self._rate = rate
        self.lanes = tuple(lanes)
        self._epochs: dict[int, Epoch] = {}
        self.book = EpochBook()
        self.skipped = 0
        """Hops that a live client was too far behind to wait for: they were not begun."""

    def begin(
        self, epoch: int, *, kind: str = "stream", start: int, feed_from: int, deliver_from: int, offline: bool
    ) -> None:
        """Start or resume an epoch; see `begin` in SPEC.md. Raises `E_EPOCH`, `E_FIELD`, `E_LIMIT`."""
        if kind != "stream":
            raise DemonError("E_FIELD", f"kind is {kind!r}; a track in mode stream begins stream")
        if self.book.is_over(epoch):
            return
        self.book.check_next(epoch)
        timeline = Timeline(
            self._checkpoint, self.geometry, rate=self._rate, lanes=self.lanes, start_sample=start, feed_from=feed_from
        )
        if deliver_from < timeline.start:
            raise DemonError("E_FIELD", f"deliver_from {deliver_from} lies before the start, frame {timeline.start}")
        stitcher = Stitcher(self._checkpoint, self.geometry, rate=self._rate, start_frame=timeline.start)
        run = Epoch(timeline, stitcher, self.geometry, deliver_from, offline)
        latest = max(timeline.start, self.geometry.input_needed_from(run.next_hop))
        if not timeline.start <= feed_from <= latest:
            raise DemonError("E_FIELD", f"feed_from {feed_from} must lie between {timeline.start} and {latest}")
        self._epochs[epoch] = run
        self.book.begin(epoch, feed_from)

    def feed(self, epoch: int, frame: int, audio: Floats, lanes: Floats, *, came_at: float | None = None) -> None:
        """Take input; see `feed` in SPEC.md. Raises `E_EPOCH`, `E_FEED_GAP`, `E_LIMIT`.

        came_at: when, in seconds of the engine's clock, for the deadlines; None is the next step.
        """
        if self.book.is_over(epoch):
            return
        run = self._epoch(epoch)
        if lanes.shape[0] + sum(other.timeline.held for other in self._epochs.values()) > MAX_FRAMES_HELD:
            raise DemonError("E_LIMIT", f"more than {MAX_FRAMES_HELD} frames of input are waiting")
        run.timeline.feed(frame, audio, lanes)
        run.timeline.forget_before(self.geometry.input_needed_from(run.next_hop))
        self.book.feed(epoch, run.timeline.expected)
        if came_at is not None:
            run.hear(came_at)

    @property
    def held_bytes(self) -> int:
        """Of input that is kept as audio."""
        return sum(run.timeline.held_bytes for run in self._epochs.values())

    def finish(self, epoch: int, frame: int) -> None:
        """The epoch's input is complete. Raises `E_EPOCH`, `E_FEED_GAP`."""
        if self.book.is_over(epoch):
            return
        self._epoch(epoch).timeline.finish(frame)
        self._close_finished()

    def skip(self, epoch: int, wanted: int) -> None:
        """A live client that was left behind no longer wants the frames before `wanted`: neither compute nor send them."""
        run = self._epochs.get(epoch)
        if run is None or run.offline or wanted <= run.next_audio_frame:
            return
        run.next_audio_frame = wanted
        run.next_audio_hop = self.geometry.hop_finishing_audio(wanted)
        wanted_hop = max(run.next_hop, self.geometry.first_hop_for_audio(run.next_audio_hop))
        self.skipped += max(0, min(wanted_hop, self.geometry.hop_of(run.timeline.expected)) - run.next_hop)
        run.next_hop = wanted_hop
        run.timeline.forget_before(self.geometry.input_needed_from(run.next_hop))
        self._close_finished()

    def drop(self, epoch: int) -> None:
        """Forget an epoch, also one that has not begun yet."""
        self._epochs.pop(epoch, None)
        self.book.drop(epoch)

    def has_epoch(self, epoch: int) -> bool:
        """Whether the epoch still has audio to hand out."""
        return epoch in self._epochs

    def next_hop(self) -> HopId | None:
        """The next hop whose input is complete, oldest epoch first; None if the track waits for input or references."""
        if not self.sound.is_ready():
            return None
        for epoch, run in self._epochs.items():
            if run.has_next_hop():
                return HopId(self.id, epoch, run.next_hop)
        return None

    def waiting(self) -> list[HopId]:
        """`next_hop()`, as a list."""
        hop = self.next_hop()
        return [hop] if hop else []

    def is_due(self, hop: HopId) -> bool:
        """A hop is due as soon as its input is there."""
        return True

    def rank(self, hop: HopId) -> Rank:
        """Live streams come first, bounces last."""
        return Rank.OFFLINE if self._epochs[hop.epoch].offline else Rank.LIVE

    def deadline(self, hop: HopId) -> float:
        """When the host needs a hop, in seconds of the engine's clock.

        A live host plays as fast as it feeds. So the deadline follows from when its last input came and how far it went, and from
        nothing else: not from when the hop came to the head of the line, nor from how many are waiting.
        """
        run = self._epochs[hop.epoch]
        if run.offline:
            return NEVER
        return run.heard_at + self.slack_s + (run.input_needed_to(hop.hop) - run.heard_to) / FRAMES_PER_SECOND

    def wants(self, hop: HopId) -> bool:
        """Whether a hop in flight is still of use: a live client may have been left behind since it was begun."""
        run = self._epochs.get(hop.epoch)
        return run is not None and hop.hop >= self.geometry.first_hop_for_audio(run.next_audio_hop)

    def frame_of(self, hop: HopId) -> int:
        """A hop's first frame."""
        return self.geometry.hop_span(hop.hop).first

    def tick(self, depth: int, now: float) -> None:
        """A step of the engine begins; `now` is in seconds and never falls."""
        for run in self._epochs.values():
            run.hear(now)
            run.decodings.tick()

    def revisions(self) -> Iterator[tuple[HopId, Revision]]:
        """A hop's lanes ride with it: nothing changes in flight."""
        return iter(())

    def open_epochs(self) -> list[int]:
        """A stream is encoded when hops begin, and decoded when they end."""
        return []

    def work(self, epoch: int) -> list[AudioWindow]:
        """See `open_epochs`."""
        return []

    def edit(self, epoch: int, edits: Floats) -> None:
        """Raises `E_EPOCH`: only a loop's lanes can be edited."""
        raise DemonError("E_EPOCH", f"epoch {epoch} is not a loop")

    def ring_key(self, hop: HopId) -> RingKey:
        """Frames and condition tokens of a hop's request: it shares a ring with those of the same sizes."""
        return self._epochs[hop.epoch].ring_key(
            hop.hop, self.sound.version, lambda: (self.geometry.window_frames, self._condition(hop).mask.shape[1])
        )

    def take(self, hop: HopId) -> SlotRequest:
        """The slot request of `next_hop()`, which then moves on."""
        run = self._epochs[hop.epoch]
        window = self.geometry.window_span(hop.hop)
        source = run.timeline.source(window)
        condition = self._condition(hop)
        null = self.sound.null(condition)
        lane = cache(lambda name: run.timeline.lane(name, window))
        request = SlotRequest(
            request_id=hop,
            noise=PositionNoise(self.sound.config.seed, window.first),
            source=source,
            context=self.sound.context(
                lambda: self._checkpoint.context(source), float(lane("structure")[self.geometry.past]), window
            ),
            conditions=[ConditionEntry(condition.states[0], condition.mask[0])],
            negatives=[ConditionEntry(null.states[0], null.mask[0])],
            solver=self.sound.config.solver,
            adapters=self.sound.adapters(tuple(float(lane(name)[self.geometry.past]) for name in LORA_LANES)),
            origin_frame=window.first,
            **slot_fields(
                lane,
                source,
                self.geometry.past,
                steps=self.sound.steps,
                own_shift=self._checkpoint.settings.shift,
            ),
        )
        run.next_hop += 1
        run.timeline.forget_before(self.geometry.input_needed_from(run.next_hop))
        return request

    def complete(self, hop: HopId, latent: torch.Tensor) -> list[AudioWindow]:
        """Take a finished hop `[T, C]` and begin to decode what it makes possible; the windows that are ready at once."""
        run = self._epochs.get(hop.epoch)
        if run is None:
            return []
        run.stitcher.add(hop.hop, latent)
        while run.stitcher.can_decode(run.next_audio_hop):
            span = self.geometry.audio_span(run.next_audio_hop)
            place = WindowPlace(self.id, hop.epoch, span, run.next_audio_frame)
            run.decodings.begin(place, run.stitcher.begin_decode(run.next_audio_hop), hop=hop.hop)
            run.next_audio_frame = span.stop
            run.next_audio_hop += 1
            run.stitcher.forget_before(run.next_audio_hop)
        windows = run.decodings.take()
        self._close_finished()
        return windows

    def decoding(self) -> list[int]:
        """Epochs with audio that is being made."""
        return [epoch for epoch, run in self._epochs.items() if run.decodings]

    def is_decoding(self, hop: HopId) -> bool:
        """Whether audio that a finished hop has made possible is still to come."""
        run = self._epochs.get(hop.epoch)
        return run is not None and run.decodings.concern(hop.hop)

    def collect(self, epoch: int) -> list[AudioWindow]:
        """The windows of an epoch that were begun before this step; waits for them. Raises ValueError as `Decoding.result`."""
        windows = self._epochs[epoch].decodings.take(waits=True)
        self._close_finished()
        return windows

    def _condition(self, hop: HopId) -> Condition:
        """The condition `[1, L, E]` of a hop: lanes of hop resolution are read at its first frame."""
        timeline, first = self._epochs[hop.epoch].timeline, self.geometry.hop_span(hop.hop).first
        blend, timbre = (float(timeline.lane(name, Span(first, first + 1))[0]) for name in ("prompt_blend", "timbre"))
        return self.sound.condition(blend, timbre)

    def _epoch(self, epoch: int) -> Epoch:
        if epoch not in self._epochs:
            raise DemonError("E_EPOCH", f"epoch {epoch} is not open")
        return self._epochs[epoch]

    def _close_finished(self) -> None:
        for epoch in [number for number, run in self._epochs.items() if run.is_done()]:
            del self._epochs[epoch]
            self.book.finish(epoch)


def _in_words(frames: int) -> str:
    return f"{frames} frames ({frames / FRAMES_PER_SECOND:g} s)"
