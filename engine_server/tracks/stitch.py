# SPDX-License-Identifier: Apache-2.0
"""Joining the latents of neighbouring hops, and decoding them, at their places on the timeline, to audio at the host's rate."""

from __future__ import annotations

import torch
from torch import Tensor

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import decode_window
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.resample import MODEL_RATE, resample_span
from shared_protocol.codec import Floats


class Stitcher:
    """Finished hops in, stitched latents and audio out: a pure function of the hops, in whatever order they finish.

    At the start of hop k, hop k-1's lookahead fades into hop k. Frames outside the epoch hold the silence latent.
    """

    def __init__(self, checkpoint: Checkpoint, geometry: WindowGeometry, *, rate: int, start_frame: int) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._rate = rate
        self._start = start_frame
        self._first_hop = geometry.hop_of(start_frame)
        self._hops: dict[int, Tensor] = {}
        steps = torch.arange(1, geometry.crossfade + 1, dtype=torch.float32)
        self._fade_in = (steps / (geometry.crossfade + 1))[:, None]

    def add(self, k: int, window: Tensor) -> None:
        """Take hop k's finished window `[past + hop + lookahead, C]`."""
        geometry = self._geometry
        self._hops[k] = window[geometry.past : geometry.past + geometry.hop + geometry.crossfade].clone()

    def can_decode(self, k: int) -> bool:
        """Whether every hop that hop k's audio is stitched from has finished."""
        first = max(self._first_hop, self._geometry.first_hop_for_audio(k))
        return all(hop in self._hops for hop in range(first, k + 1))

    def decode(self, k: int) -> Floats:
        """Audio `[2, hop frames]` of `audio_span(k)` at the host's rate. Values beyond 1 are kept."""
        span = self._geometry.latent_span(k)
        latents = torch.stack([self._latent(frame) for frame in range(span.first, span.stop)])
        margin = self._geometry.decoder_margin
        audio = decode_window(
            self._checkpoint.codec,
            latents,
            margin,
            len(span) - 2 * margin,
            position=span.first,
            silence=self._checkpoint.silence,
        )
        return resample_span(audio.contiguous().numpy(), MODEL_RATE, self._rate)

    def forget_before(self, k: int) -> None:
        """Free the hops that no audio from hop k on needs."""
        needed = self._geometry.first_hop_for_audio(k)
        for old in [hop for hop in self._hops if hop < needed]:
            del self._hops[old]

    def _latent(self, frame: int) -> Tensor:
        if frame < self._start:
            return self._checkpoint.silence
        geometry = self._geometry
        k = geometry.hop_of(frame)
        offset = frame - k * geometry.hop
        own = self._hops[k][offset]
        if offset >= geometry.crossfade or k == self._first_hop:
            return own
        before = self._hops[k - 1][geometry.hop + offset]
        return before + self._fade_in[offset] * (own - before)
