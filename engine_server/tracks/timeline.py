# SPDX-License-Identifier: Apache-2.0
"""An epoch's input by absolute frame: source audio, lanes and, encoded once on a fixed grid of chunks, source latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.upload import upload
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import Span, encode_window
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.resample import to_model
from shared_protocol.codec import CHANNELS, Floats
from shared_protocol.errors import DemonError
from shared_protocol.lanes import load_lanes
from shared_protocol.timebase import frame_of_sample, samples_per_frame


class Timeline:
    """Input of one epoch. Frames before its start and from its end on hold the silence latent; lanes hold their nearest value.

    One thread at a time.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        geometry: WindowGeometry,
        *,
        rate: int,
        lanes: Sequence[str],
        start_sample: int,
        feed_from: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._rate = rate
        self._columns: Mapping[str, int] = {lane: column for column, lane in enumerate(lanes)}
        self.start = frame_of_sample(start_sample, rate)
        self.expected = feed_from
        self.end: int | None = None
        self._first_kept = feed_from
        self._audio: dict[int, Floats] = {}
        self._lanes: dict[int, Floats] = {}
        self._latents: dict[int, Tensor] = {}

    def feed(self, frame: int, audio: Floats, lanes: Floats) -> None:
        """Take audio `[2, n * frame]` and lanes `[n, columns]` from `frame` on; frames that are already here are ignored.

        Raises DemonError: `E_EPOCH` for frames after the end, `E_FEED_GAP` if `frame` is ahead of the frame expected.
        """
        if self.end is not None and frame + lanes.shape[0] > self.end:
            raise DemonError("E_EPOCH", "the epoch has ended")
        self._check_gap(frame)
        size = samples_per_frame(self._rate)
        for offset in range(self.expected - frame, lanes.shape[0]):
            self._audio[frame + offset] = audio[:, offset * size : (offset + 1) * size].copy()
            self._lanes[frame + offset] = lanes[offset].copy()
        self.expected = max(self.expected, frame + lanes.shape[0])

    @property
    def held(self) -> int:
        """Frames of input in memory."""
        return len(self._audio)

    @property
    def held_bytes(self) -> int:
        """Of audio in them."""
        return len(self._audio) * CHANNELS * samples_per_frame(self._rate) * np.dtype(np.float32).itemsize

    def finish(self, frame: int) -> None:
        """No input from `frame` on. Raises DemonError `E_FEED_GAP` if it is ahead of the frame expected."""
        self._check_gap(frame)
        self.end = self.expected

    def has_input_for(self, window: Span) -> bool:
        """Whether the source latents of a window can be computed now."""
        last_chunk = self._geometry.chunk_of(window.stop - 1)
        return self.end is not None or self._geometry.chunk_input(last_chunk).stop <= self.expected

    def source(self, window: Span) -> Tensor:
        """Source latents `[T, C]` of a span of whole chunks; the silence latent outside the epoch's input."""
        chunk = self._geometry.chunk
        chunks = range(self._geometry.chunk_of(window.first), self._geometry.chunk_of(window.stop - 1) + 1)
        latents = torch.cat([self._chunk_latents(c) for c in chunks])
        offset = window.first - chunks[0] * chunk
        return latents[offset : offset + len(window)]

    def lane(self, lane_id: str, window: Span) -> NDArray[np.float32]:
        """A lane's values over a span, `[T]`; its default if the client does not send it."""
        column = self._columns.get(lane_id)
        if column is None:
            return np.full(len(window), load_lanes()[lane_id].default, dtype=np.float32)
        frames = np.clip(np.arange(window.first, window.stop), self._first_kept, self.expected - 1)
        return np.array([self._lanes[int(frame)][column] for frame in frames], dtype=np.float32)

    def forget_before(self, frame: int) -> None:
        """Free what no later window needs."""
        for kept in [f for f in self._audio if f < frame]:
            del self._audio[kept]
        first_lane = min(frame, self.expected - 1)  # the last value is held for ever
        for kept in [f for f in self._lanes if f < first_lane]:
            del self._lanes[kept]
        self._first_kept = max(self._first_kept, first_lane)
        for kept in [c for c in self._latents if (c + 1) * self._geometry.chunk <= frame]:
            del self._latents[kept]

    def _check_gap(self, frame: int) -> None:
        if frame > self.expected:
            raise DemonError("E_FEED_GAP", f"frame {frame} came where {self.expected} was expected")

    def _chunk_latents(self, c: int) -> Tensor:
        if c not in self._latents:
            self._latents[c] = self._encode_chunk(c)
        return self._latents[c]

    def _encode_chunk(self, c: int) -> Tensor:
        """Latents `[chunk, C]`, from audio of one fixed shape; frames outside the input become the silence latent."""
        chunk, margin = self._geometry.chunk, self._geometry.encoder_margin
        stop = self.expected if self.end is None else self.end
        inside = np.array([self.start <= f < stop for f in range(c * chunk, (c + 1) * chunk)])
        silence = self._checkpoint.silence
        if not inside.any():
            return silence.expand(chunk, -1)
        span = self._geometry.chunk_input(c)
        nothing = np.zeros((CHANNELS, samples_per_frame(self._rate)), dtype=np.float32)
        audio = np.concatenate([self._audio.get(f, nothing) for f in range(span.first, span.stop)], axis=1)
        model_audio, device = torch.from_numpy(to_model(audio, self._rate)), self._checkpoint.placement.device
        latents = encode_window(self._checkpoint.codec, model_audio, margin, chunk, device=device)
        return torch.where(upload(inside, device)[:, None], latents, silence)
