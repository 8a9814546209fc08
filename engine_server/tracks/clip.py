# SPDX-License-Identifier: Apache-2.0
"""A clip: its source, encoded once as it comes in, its lanes, and what a take of one of its windows asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine_server.diffusion.noise import PositionNoise
from engine_server.diffusion.prepare import REVISABLE
from engine_server.diffusion.request import ConditionEntry, SlotRequest
from engine_server.diffusion.upload import upload
from engine_server.model.blends import lerp
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.conditioning import Condition
from engine_server.model.windows import Span, piece_windows
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.lane_table import LaneTable
from engine_server.tracks.lanes import LORA_LANES, slot_fields
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.timeline import Timeline
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError

CLIP_LIMIT = 15_000
"""Frames of a clip: ten minutes, the longest piece that the model was told of. At 48 kHz it takes 230 MB until it is encoded,
and then some 45 MB with eight results to feed back."""
HISTORY = 8
ENCODE_FRAMES = 250
"""Frames that are encoded at once: other tracks' ticks wait for no more than that."""


class Clip:
    """Frames count from the clip's first, which is `start` on the timeline. One thread."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        geometry: WindowGeometry,
        sound: TrackSound,
        *,
        rate: int,
        lanes: Sequence[str],
        start_sample: int,
        feed_from: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._sound = sound
        self._timeline = Timeline(
            checkpoint, geometry, rate=rate, lanes=(), start_sample=start_sample, feed_from=feed_from
        )
        self.start = self._timeline.start
        if feed_from != self.start:
            raise DemonError("E_FIELD", f"feed_from is {feed_from}; a clip is fed from its start, frame {self.start}")
        self.table = LaneTable(lanes)
        self.windows: tuple[Span, ...] = ()
        """What the model makes at once; empty until the clip is complete."""
        self._chunks: list[Tensor] = []
        self._source: Tensor | None = None
        self._contexts: dict[int, Tensor] = {}
        self._history: list[deque[Tensor]] = []

    @property
    def expected(self) -> int:
        """Next frame of the timeline that is expected."""
        return self._timeline.expected

    @property
    def frames(self) -> int:
        """Frames that have been fed."""
        return self.table.frames

    @property
    def held_bytes(self) -> int:
        """Of audio that is not encoded yet."""
        return self._timeline.held_bytes

    @property
    def is_encoded(self) -> bool:
        """Whether the clip is complete and its source encoded."""
        return self._source is not None

    def feed(self, frame: int, audio: Floats, lanes: Floats) -> None:
        """Take input as `Timeline.feed` does. Raises DemonError `E_EPOCH`, `E_FEED_GAP`, `E_CLIP`."""
        known = self.expected - frame
        if not self.windows and frame + len(lanes) - self.start > CLIP_LIMIT:
            raise DemonError("E_CLIP", f"a clip has {CLIP_LIMIT} frames at most")
        self._timeline.feed(frame, audio, np.empty((len(lanes), 0), dtype=np.float32))
        self.table.append(lanes[max(0, known) :])

    def finish(self, frame: int) -> None:
        """The clip is complete. Raises DemonError `E_FEED_GAP`, `E_CLIP`."""
        if self.windows:
            return
        self._timeline.finish(frame)
        if self.frames == 0:
            raise DemonError("E_CLIP", "the clip is empty")
        self.windows = piece_windows(self.frames)
        self._history = [deque(maxlen=HISTORY) for _ in self.windows]
        self._join()

    def can_encode(self) -> bool:
        """Whether `encode_some` has something to do."""
        return not self.is_encoded and self._timeline.has_input_for(self._next_chunk())

    def encode_some(self) -> None:
        """Encode some of the source, if there is some."""
        geometry = self._geometry
        for _ in range(max(1, ENCODE_FRAMES // geometry.chunk)):
            if not self.can_encode():
                return
            chunk = self._next_chunk()
            self._chunks.append(self._timeline.source(chunk))
            self._timeline.forget_before(geometry.chunk_input(geometry.chunk_of(chunk.stop)).first)
            self._join()

    def has_feedback(self, k: int) -> bool:
        """Whether a window's next take depends on its last."""
        return bool(self.table.lane("feedback", self.windows[k]).any())

    def remember(self, k: int, latent: Tensor) -> None:
        """The newest result `[T, C]` of a window."""
        self._history[k].appendleft(latent)

    def condition(self, k: int) -> Condition:
        """The condition `[1, L, E]` of a window."""
        return self._sound.condition(self._last("prompt_blend", k), self._last("timbre", k))

    def request(self, k: int, request_id: Any, *, is_live: bool) -> SlotRequest:
        """What a take of window k asks for now. is_live: its step-time lanes may change in flight."""
        sound, window = self._sound, self.windows[k]
        source = self._fed_back(k)
        condition = self.condition(k)
        null = sound.null(condition)
        return SlotRequest(
            request_id=request_id,
            noise=PositionNoise(sound.config.seed, self.start + window.first),
            source=source,
            context=sound.context(lambda: self._own_context(k), self.table.lane("structure", window), window),
            conditions=[ConditionEntry(condition.states[0], condition.mask[0])],
            negatives=[ConditionEntry(null.states[0], null.mask[0])],
            keeps_negatives=is_live,
            solver=sound.config.solver,
            origin_frame=self.start + window.first,
            **self._lane_fields(k, source),
        )

    def step_time(self, k: int, source: Tensor) -> dict[str, Any]:
        """The revisable fields of a take of window k that was made from `source` `[T, C]`, as the lanes are now."""
        fields = self._lane_fields(k, source)
        return {name: fields.get(name, absent) for name, absent in REVISABLE.items()}

    def _lane_fields(self, k: int, source: Tensor) -> dict[str, Any]:
        window = self.windows[k]
        lane = cache(lambda name: self.table.lane(name, window))
        fields = slot_fields(
            lane, source, len(window) - 1, steps=self._sound.steps, own_shift=self._checkpoint.settings.shift
        )
        return fields | {"adapters": self._sound.adapters(tuple(self._last(name, k) for name in LORA_LANES))}

    def _last(self, lane: str, k: int) -> float:
        """A lane of hop resolution: its value on the window's last frame, where a turned knob latches to."""
        stop = self.windows[k].stop
        return float(self.table.lane(lane, Span(stop - 1, stop))[0])

    def _fed_back(self, k: int) -> Tensor:
        """The source `[T, C]` of a window's next take: moved towards earlier results, frame by frame."""
        source, history, window = self._source_of(k), self._history[k], self.windows[k]
        share = self.table.lane("feedback", window)
        if not history or not share.any():
            return source
        depth = np.rint(self.table.lane("feedback_depth", window)).astype(np.int64)
        index = upload(np.clip(depth, 1, len(history)) - 1, source.device)
        earlier = torch.stack(list(history))[index, torch.arange(len(window), device=source.device)]
        return lerp(source, earlier, torch.from_numpy(share), name="feedback")

    def _source_of(self, k: int) -> Tensor:
        assert self._source is not None
        return self._source[self.windows[k].first : self.windows[k].stop]

    def _own_context(self, k: int) -> Tensor:
        if k not in self._contexts:
            self._contexts[k] = self._checkpoint.context(self._source_of(k))
        return self._contexts[k]

    def _next_chunk(self) -> Span:
        size = self._geometry.chunk
        first = (self._geometry.chunk_of(self.start) + len(self._chunks)) * size
        return Span(first, first + size)

    def _join(self) -> None:
        """Once all is encoded: the latents from the clip's first frame to the end of its last window."""
        if not self.windows or self._next_chunk().first < self.start + self.frames:
            return
        offset = self.start % self._geometry.chunk
        known = torch.cat(self._chunks)[offset : offset + self.frames]
        missing = self.windows[-1].stop - self.frames
        self._source = torch.cat([known, self._checkpoint.silence.expand(missing, -1)])
        self._chunks = []
        self._timeline.forget_before(self.start + self.frames + self._geometry.chunk + self._geometry.input_reach)
