# SPDX-License-Identifier: Apache-2.0
"""Joining the latents of neighbouring hops, and decoding them, at their places on the timeline, to audio at the host's rate."""

from __future__ import annotations

import torch
from torch import Tensor

from engine_server.diffusion.upload import upload
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import Span
from engine_server.tracks.decode import Decoding, begin_decode
from engine_server.tracks.geometry import WindowGeometry


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
        self._fade_in = upload((steps / (geometry.crossfade + 1))[:, None], checkpoint.placement.device)

    def add(self, k: int, window: Tensor) -> None:
        """Take hop k's finished window `[past + hop + lookahead, C]`."""
        geometry = self._geometry
        self._hops[k] = window[geometry.past : geometry.past + geometry.hop + geometry.crossfade].clone()

    def can_decode(self, k: int) -> bool:
        """Whether every hop that hop k's audio is stitched from has finished."""
        first = max(self._first_hop, self._geometry.first_hop_for_audio(k))
        return all(hop in self._hops for hop in range(first, k + 1))

    def begin_decode(self, k: int) -> Decoding:
        """Begin to make the audio `[2, hop frames]` of `audio_span(k)` at the host's rate."""
        span = self._geometry.latent_span(k)
        return begin_decode(self._checkpoint, self._latents(span), position=span.first, rate=self._rate)

    def forget_before(self, k: int) -> None:
        """Free the hops that no audio from hop k on needs."""
        needed = self._geometry.first_hop_for_audio(k)
        for old in [hop for hop in self._hops if hop < needed]:
            del self._hops[old]

    def _latents(self, span: Span) -> Tensor:
        """The stitched latents `[T, C]` of a span."""
        first, hop = max(span.first, self._start), self._geometry.hop
        hops = range(first // hop, -(-span.stop // hop))
        known = [self._part(k, max(first - k * hop, 0), min(span.stop - k * hop, hop)) for k in hops]
        return torch.cat([self._checkpoint.silence.expand(max(first - span.first, 0), -1), *known])

    def _part(self, k: int, first: int, stop: int) -> Tensor:
        """Frames `[first, stop)` of a hop, counted from its own first."""
        own, hop = self._hops[k][first:stop], self._geometry.hop
        fading = min(stop, self._geometry.crossfade) - first
        if fading <= 0 or k == self._first_hop:
            return own
        before = self._hops[k - 1][hop + first : hop + first + fading]
        return torch.cat([before + self._fade_in[first : first + fading] * (own[:fading] - before), own[fading:]])
