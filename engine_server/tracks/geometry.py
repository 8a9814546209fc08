# SPDX-License-Identifier: Apache-2.0
"""Where hops, windows and chunks lie on the timeline. Pure integer arithmetic; all spans are half-open and in frames.

Hop k covers `[kH, kH + H)`. The model sees `[kH - P, kH + H + F)` for it. Its last D = decoder margin + resampler margin
frames wait for the next hop, because decoding them needs latents from there: the audio that hop k finishes is
`[kH - D, kH + H - D)`, decoded from the stitched latents `[kH - 2D, kH + H)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine_server.model.windows import Span
from shared_protocol.errors import DemonError


@dataclass(frozen=True)
class WindowGeometry:
    """Sizes of one track's windows. Raises DemonError `E_FIELD` if they contradict each other."""

    hop: int
    past: int
    lookahead: int
    crossfade: int
    encoder_margin: int
    decoder_margin: int
    resampler_margin: int = 0

    def __post_init__(self) -> None:
        if min(self.hop, self.lookahead) < 2 or min(self.past, self.crossfade) < 0:
            raise DemonError("E_FIELD", "hop and lookahead must be at least 2 frames, past and crossfade at least 0")
        if self.hop % 2 or self.lookahead % 2 or self.past % self.chunk:
            raise DemonError("E_FIELD", f"hop and lookahead must be even and past a multiple of {self.chunk} frames")
        if self.lookahead < self.output_delay + self.crossfade or self.crossfade > self.hop:
            raise DemonError(
                "E_FIELD",
                f"lookahead must hold the output's delay and the crossfade ({self.output_delay + self.crossfade} frames),"
                f" and the crossfade must fit into a hop",
            )

    @property
    def chunk(self) -> int:
        """Length of the absolute grid on which the source is encoded, once: it divides hop, past and lookahead."""
        return math.gcd(self.hop, self.lookahead)

    @property
    def input_reach(self) -> int:
        """Frames on either side of a chunk that its encoding sees."""
        return self.encoder_margin + self.resampler_margin

    @property
    def output_delay(self) -> int:
        """Frames by which finished audio trails finished latents."""
        return self.decoder_margin + self.resampler_margin

    @property
    def window_frames(self) -> int:
        """Frames that the model sees for a hop."""
        return self.past + self.hop + self.lookahead

    @property
    def minimum_latency(self) -> int:
        """The least latency in frames with which a hop's audio is ready in time, half a hop being left for computing."""
        waiting = self.hop + self.lookahead + self.crossfade
        return waiting + self.input_reach + self.output_delay + self.hop // 2

    @property
    def retain(self) -> int:
        """To resume at frame f, source and lanes are needed from `f - retain` on."""
        k = 0
        last_frame_of_window = self.audio_span(k).stop - 1
        return last_frame_of_window - self.input_needed_from(self.first_hop_for_audio(k))

    def hop_of(self, frame: int) -> int:
        """The hop that contains a frame."""
        return frame // self.hop

    def hop_span(self, k: int) -> Span:
        """The frames of hop k."""
        return Span(k * self.hop, (k + 1) * self.hop)

    def window_span(self, k: int) -> Span:
        """The frames that the model sees for hop k."""
        return Span(k * self.hop - self.past, (k + 1) * self.hop + self.lookahead)

    def audio_span(self, k: int) -> Span:
        """The frames whose audio hop k finishes."""
        return Span(k * self.hop - self.output_delay, (k + 1) * self.hop - self.output_delay)

    def latent_span(self, k: int) -> Span:
        """The stitched latents from which `audio_span(k)` is decoded."""
        return Span(k * self.hop - 2 * self.output_delay, (k + 1) * self.hop)

    def hop_finishing_audio(self, frame: int) -> int:
        """The hop whose `audio_span` contains a frame."""
        return (frame + self.output_delay) // self.hop

    def first_hop_for_audio(self, k: int) -> int:
        """The oldest hop that `latent_span(k)` is stitched from."""
        first = self.latent_span(k).first
        hop = self.hop_of(first)
        fades = first - hop * self.hop < self.crossfade
        return hop - 1 if fades else hop

    def input_needed_from(self, k: int) -> int:
        """First frame of input that hop k's window depends on."""
        return self.window_span(k).first - self.input_reach

    def input_needed_to(self, k: int) -> int:
        """The frame after the last of input that hop k's window depends on."""
        return self.chunk_input(self.chunk_of(self.window_span(k).stop - 1)).stop

    def chunk_of(self, frame: int) -> int:
        """The encoding chunk that contains a frame."""
        return frame // self.chunk

    def chunk_input(self, c: int) -> Span:
        """The frames of audio that chunk c is encoded from."""
        return Span(c * self.chunk - self.input_reach, (c + 1) * self.chunk + self.input_reach)
