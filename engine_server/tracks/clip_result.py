# SPDX-License-Identifier: Apache-2.0
"""The latents that a clip has so far, from the results of its windows, and their audio on a grid of small windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import SLIDING_CROSSFADE, Span, fade, fade_between
from engine_server.tracks.decode import Decoding, begin_decode
from engine_server.tracks.geometry import WindowGeometry

DECODE_FRAMES = 25
"""Frames of the grid on which a clip is decoded: a second, so that what is heard soon is ready soon."""


class ClipResult:
    """Frames count from the clip's first, `start` on the timeline; around the clip lies the silence latent. One thread.

    A window fades into the next where `stitch_windows` has it do so; two such fades never meet.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        geometry: WindowGeometry,
        *,
        rate: int,
        start: int,
        frames: int,
        windows: Sequence[Span],
        crossfade: int = SLIDING_CROSSFADE,
    ) -> None:
        self._checkpoint = checkpoint
        self._geometry = geometry
        self._rate = rate
        self._start = start
        self._windows = tuple(windows)
        self._frames = frames
        self._latents = checkpoint.silence.repeat(windows[-1].stop, 1)
        self._is_made = np.zeros(windows[-1].stop, dtype=bool)
        self._parts: dict[int, Tensor] = {}
        pairs = zip(self._windows, self._windows[1:], strict=False)
        self._fades = [fade_between(before, after, crossfade) for before, after in pairs]

    @property
    def decode_windows(self) -> int:
        """Windows of the grid on which audio is made; the last one may be shorter."""
        return -(-self._frames // DECODE_FRAMES)

    def decode_span(self, w: int) -> Span:
        """The frames of a window of that grid."""
        return Span(w * DECODE_FRAMES, min((w + 1) * DECODE_FRAMES, self._frames))

    def put(self, k: int, latent: Tensor) -> Span:
        """Take the result `[T, C]` of window k; the frames whose latents are others now."""
        window, zone = self._windows[k], self._zone(k)
        self._parts[k] = latent
        self._latents[zone.first : zone.stop] = latent[zone.first - window.first : zone.stop - window.first]
        for before in (k - 1, k):
            if before in self._parts and before + 1 in self._parts:
                span = self._fades[before]
                a, b = (self._part(which, span) for which in (before, before + 1))
                self._latents[span.first : span.stop] = fade(a, b)
        self._is_made[zone.first : zone.stop] = True
        return zone

    def touched(self, zone: Span) -> range:
        """The decode windows whose audio depends on these frames."""
        reach = self._geometry.output_delay
        first, last = max(0, zone.first - reach), min(self._frames, zone.stop + reach) - 1
        return range(first // DECODE_FRAMES, last // DECODE_FRAMES + 1)

    def can_decode(self, w: int) -> bool:
        """Whether all frames of a decode window have been made."""
        span = self.decode_span(w)
        return bool(self._is_made[span.first : span.stop].all())

    def is_final(self, w: int, finished: int) -> bool:
        """Whether nothing will change a decode window any more, once the first `finished` windows have their last result."""
        if finished == len(self._windows):
            return True
        stop = self._fades[finished - 1].first if finished else 0
        return self.decode_span(w).stop + self._geometry.output_delay <= stop

    def begin_decode(self, w: int) -> Decoding:
        """Begin to make the audio `[2, n]` of a decode window, as it is now, at the host's rate."""
        span, delay, silence = self.decode_span(w), self._geometry.output_delay, self._checkpoint.silence
        first, stop = span.first - delay, span.stop + delay
        known = self._latents[max(first, 0) : min(stop, self._frames)]
        before, after = max(-first, 0), max(stop - self._frames, 0)
        latents = torch.cat([silence.expand(before, -1), known, silence.expand(after, -1)])
        return begin_decode(self._checkpoint, latents, position=self._start + first, rate=self._rate)

    def latents(self) -> Tensor:
        """A copy of all latents `[frames, C]`, silence where nothing was made."""
        return self._latents[: self._frames].clone()

    def _zone(self, k: int) -> Span:
        """The frames that window k has a part in."""
        first = self._fades[k - 1].first if k else 0
        stop = self._fades[k].stop if k < len(self._fades) else self._windows[k].stop
        return Span(first, stop)

    def _part(self, k: int, span: Span) -> Tensor:
        window = self._windows[k]
        return self._parts[k][span.first - window.first : span.stop - window.first]
