# SPDX-License-Identifier: Apache-2.0
"""A commit: a clip that is made once, from the lanes that it was fed with, and handed out in order."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from engine_server.diffusion.request import SlotRequest
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import Span
from engine_server.tracks.clip import Clip
from engine_server.tracks.clip_result import DECODE_FRAMES, ClipResult
from engine_server.tracks.decodings import Decodings
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.sound import TrackSound
from engine_server.tracks.windows import AudioWindow, HopId, Revision, WindowPlace


class Commit:
    """Round r of window k is hop `k * MOST_ROUNDS + r`. One thread."""

    MOST_ROUNDS = 8
    is_offline = True

    def __init__(
        self,
        track: str,
        epoch: int,
        clip: Clip,
        sound: TrackSound,
        checkpoint: Checkpoint,
        geometry: WindowGeometry,
        rate: int,
        deliver_from: int,
    ) -> None:
        self.clip = clip
        self.decodings = Decodings()
        self._track, self._epoch = track, epoch
        self._sound = sound
        self._checkpoint, self._geometry, self._rate = checkpoint, geometry, rate
        self._next_frame = deliver_from - clip.start
        """The next frame of audio to hand out, counted from the clip's first."""
        self._rounds: list[int] = []
        """Rounds done, by window."""
        self._flying: set[int] = set()
        self._result: ClipResult | None = None

    def is_done(self) -> bool:
        """Whether all audio has been handed out."""
        return self._is_begun() and not self.decodings

    def move_playhead(self, frame: int) -> None:
        """Nothing is skipped in a commit."""

    def tick(self, depth: int) -> None:
        """A tick of the engine begins: a commit takes what slots there are."""
        self.decodings.tick()

    def waiting(self) -> HopId | None:
        """The next round to begin: that of the first window which is neither finished nor in flight."""
        if not (self.clip.is_encoded and self._sound.is_ready()):
            return None
        if not self._rounds:
            self._rounds = [0] * len(self.clip.windows)
        for k, done in enumerate(self._rounds):
            if k not in self._flying and done < self._rounds_of(k):
                return HopId(self._track, self._epoch, k * self.MOST_ROUNDS + done)
        return None

    def is_due(self) -> bool:
        """Whether it is time for the round that waits."""
        return True

    def ring_key(self, hop: HopId) -> tuple[int, int]:
        """Frames and condition tokens of a round."""
        k = hop.hop // self.MOST_ROUNDS
        return len(self.clip.windows[k]), self.clip.condition(k).mask.shape[1]

    def frame_of(self, hop: HopId) -> int:
        """The first frame, on the timeline, of a round's window."""
        return self.clip.start + self.clip.windows[hop.hop // self.MOST_ROUNDS].first

    def take(self, hop: HopId) -> SlotRequest:
        """The request of `waiting()`, which is then in flight."""
        k = hop.hop // self.MOST_ROUNDS
        request = self.clip.request(k, hop, is_live=False)
        self._flying.add(k)
        return request

    def revisions(self) -> Iterator[tuple[HopId, Revision]]:
        """Nothing changes in flight."""
        return iter(())

    def complete(self, hop: HopId, latent: torch.Tensor) -> None:
        """Take a finished round `[T, C]`."""
        k = hop.hop // self.MOST_ROUNDS
        self._flying.discard(k)
        self._rounds[k] += 1
        self.clip.remember(k, latent)
        if self._rounds[k] == self._rounds_of(k):
            self._made().put(k, latent)

    def can_decode(self) -> bool:
        """Whether `decode_some` has something to do."""
        if self._result is None or self._is_begun():
            return False
        finished = next((k for k, done in enumerate(self._rounds) if done < self._rounds_of(k)), len(self.clip.windows))
        return self._result.is_final(self._next_decode(), finished)

    def decode_some(self) -> list[AudioWindow]:
        """Begin the next window of audio, if nothing will change it any more; what is ready at once."""
        if not self.can_decode():
            return []
        result, w, start = self._made(), self._next_decode(), self.clip.start
        span = result.decode_span(w)
        place = WindowPlace(
            self._track, self._epoch, Span(start + span.first, start + span.stop), start + self._next_frame
        )
        self.decodings.begin(place, result.begin_decode(w))
        self._next_frame = span.stop
        return self.decodings.take()

    def latents(self) -> torch.Tensor:
        """The latents `[frames, C]` of the whole clip, as far as they are made."""
        return self._made().latents()

    def _rounds_of(self, k: int) -> int:
        return self._sound.config.feedback_rounds if self.clip.has_feedback(k) else 1

    def _is_begun(self) -> bool:
        """Whether nothing is left to be decoded."""
        return self.clip.is_encoded and self._next_frame >= self.clip.frames

    def _next_decode(self) -> int:
        return self._next_frame // DECODE_FRAMES

    def _made(self) -> ClipResult:
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
        return self._result
