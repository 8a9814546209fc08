# SPDX-License-Identifier: Apache-2.0
"""Any part of a piece through the codec, and any length: windows that equal the whole, in bounded memory.

All intervals are half-open and in frames of `codec.hop` samples. A window is coded together with the margin that the
codec reaches over, and the margin's result is discarded. Where a margin would run past the start or the end of the
piece it stops there: the window then ends where the whole would, in the same padding, so that the edges are equal
too. A cyclic piece has no edges: its frames are taken modulo its length, as in an endless loop.

A decoder that knows positions (`Codec.position_period` above 1) is told the absolute frame of what it decodes. Frames of
a cyclic piece keep the position that they have in the first turn, so that a window still equals the whole. Where the
piece is no multiple of the period, the phases therefore jump from its end to its start; its last frame fades from the
phases of its own position into those of the frame before the start, and the loop closes without a click.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from engine_server.diffusion.upload import upload
from engine_server.model.codec import Codec
from engine_server.model.spectral_codec import noise_like
from shared_protocol.errors import DemonError
from shared_protocol.timebase import FRAMES_PER_SECOND, first_sample, frame_of_sample, frames_to_cover

LONGEST_SPAN = 500
"""Frames that a codec without a fixed span is given at once: 20 s bound the memory of pieces of any length."""
LONGEST_WINDOW = 240 * FRAMES_PER_SECOND
"""Pieces up to this length are generated in one window; longer ones in sliding windows of 60 s."""
SLIDING_WINDOW = 60 * FRAMES_PER_SECOND
SLIDING_OVERLAP = 4 * FRAMES_PER_SECOND
SLIDING_CROSSFADE = FRAMES_PER_SECOND
GROUP = 10
"""Sliding windows start and stop at multiples of this: of the transformer's patch (2) and of a 5 Hz code (5)."""


@dataclass(frozen=True)
class Span:
    """Frames `[first, stop)`."""

    first: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.first)


@dataclass(frozen=True)
class WindowPlan:
    """Code `span`, keep `keep`. In a cyclic piece both may leave `[0, total)`; else `span` may only with padding after it."""

    keep: Span
    span: Span
    total: int
    cyclic: bool

    @property
    def trim_left(self) -> int:
        """Frames of the coded span before those that are kept."""
        return self.keep.first - self.span.first

    @property
    def padding(self) -> int:
        """Frames after the end of the piece that fill a fixed span longer than the piece."""
        return 0 if self.cyclic else max(0, self.span.stop - self.total)


@dataclass(frozen=True)
class StreamWindow:
    """The frames decoded for a playhead, and the sample at which their audio starts. It may wrap at a cyclic piece's end."""

    span: Span
    start_sample: int


def plan_window(
    first: int, count: int, total: int, margin: int, *, cyclic: bool = False, fixed: int | None = None
) -> WindowPlan:
    """Frames `[first, first + count)` of `total`, with `margin` frames on each side, less at a linear piece's edges.

    `fixed`: the exact length to code. The window sits in its middle, or off it where the piece's edge is near; only a
    piece shorter than that is padded, at its end.
    Raises DemonError `E_FIELD` for a window outside a linear piece, and for a `fixed` too short for window and margin.
    """
    if count < 1 or total < 1 or not (cyclic or 0 <= first <= total - count):
        raise DemonError("E_FIELD", f"window [{first}, {first + count}) is not within the {total} frames of the piece")
    keep = Span(first, first + count)
    needed = _needed(keep, total, margin, cyclic)
    if fixed is None:
        return WindowPlan(keep, needed, total, cyclic)
    if fixed < len(needed):
        raise DemonError("E_FIELD", f"fixed is {fixed}; {count} frames with their margins need {len(needed)}")
    start = first - (fixed - count) // 2
    start = min(max(start, needed.stop - fixed), needed.first)
    if not cyclic:
        start = max(0, min(start, total - fixed))
    return WindowPlan(keep, Span(start, start + fixed), total, cyclic)


def plan_windows(
    first: int, count: int, total: int, margin: int, *, cyclic: bool = False, fixed: int | None = None
) -> tuple[WindowPlan, ...]:
    """As `plan_window`, in as many pieces as the span allows (`fixed`, else `LONGEST_SPAN`); all spans of one length."""
    whole = plan_window(first, count, total, margin, cyclic=cyclic)
    length = LONGEST_SPAN if fixed is None else fixed
    if len(whole.span) <= length:
        return (whole if fixed is None else plan_window(first, count, total, margin, cyclic=cyclic, fixed=fixed),)
    step = length - 2 * margin
    if step < 1:
        raise DemonError("E_FIELD", f"fixed is {fixed}; with a margin of {margin} it must be at least {2 * margin + 1}")
    stop = first + count
    return tuple(
        plan_window(at, min(step, stop - at), total, margin, cyclic=cyclic, fixed=length)
        for at in range(first, stop, step)
    )


@torch.no_grad()
def decode_window(
    codec: Codec,
    latents: Tensor,
    first: int,
    count: int,
    *,
    position: int = 0,
    cyclic: bool = False,
    fixed_span: int | None = None,
    silence: Tensor | None = None,
) -> Tensor:
    """Latents `[N, C]` -> audio `[2, count * hop]` of frames `[first, first + count)`, equal to those of the whole's decode.

    `position`: the absolute frame of `latents[0]`, which may be negative.
    `fixed_span`: one length for every call of the decoder; by default the codec's own, or none. A linear piece shorter
    than that is decoded as if `silence` `[C]` followed it, which is heard in its last `decoder_margin` frames at most.
    Raises DemonError `E_FIELD` as `plan_window` does, and where `silence` is needed but not given.
    """
    fixed = codec.fixed_span if fixed_span is None else fixed_span
    total, margin = latents.shape[0], codec.decoder_margin
    jumps = cyclic and total % codec.position_period != 0

    def decode(plan: WindowPlan, turn: int) -> Tensor:
        """The frames that a plan keeps, at their positions in the turn of the loop that starts at frame `turn`."""
        audio = codec.decode(_take(latents, plan, silence)[None], position + plan.span.first - turn)[0]
        begin = plan.trim_left * codec.hop
        return audio[:, begin : begin + len(plan.keep) * codec.hop]

    parts = []
    for run in _split_at_seams(first, count, total) if jumps else [Span(first, first + count)]:
        plans = plan_windows(run.first, len(run), total, margin, cyclic=cyclic, fixed=fixed)
        turn = run.first // total * total if cyclic else 0
        parts += [decode(plan, turn) for plan in plans]
        if jumps and run.stop == turn + total:
            last = plan_window(run.stop - 1, 1, total, margin, cyclic=cyclic, fixed=fixed)
            parts[-1] = _fade_end(parts[-1], decode(last, run.stop))
    return torch.cat(parts, dim=1)


def decode_full(
    codec: Codec,
    latents: Tensor,
    *,
    position: int = 0,
    cyclic: bool = False,
    fixed_span: int | None = None,
    silence: Tensor | None = None,
) -> Tensor:
    """Latents `[N, C]` of any length -> audio `[2, N * hop]`. Options and errors are `decode_window`'s."""
    total = latents.shape[0]
    return decode_window(
        codec, latents, 0, total, position=position, cyclic=cyclic, fixed_span=fixed_span, silence=silence
    )


@torch.no_grad()
def encode_window(
    codec: Codec,
    audio: Tensor,
    first: int,
    count: int,
    *,
    cyclic: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Audio `[2, n]` -> latents `[count, C]` of frames `[first, first + count)`, equal to those of the whole's encoding.

    An incomplete last frame is filled with zeros. With a generator the latents are a sample, whose noise is drawn for
    the whole piece: from generators of one state every window gets the whole's noise. device: the codec's, if the audio lies
    elsewhere: it goes there part by part, and the latents stay there.
    Raises DemonError `E_FIELD` as `plan_window` does, and for a cyclic piece that is not a whole number of frames.
    """
    frames = _frames(audio, codec.hop, cyclic)
    total = frames.shape[0]
    plans = plan_windows(first, count, total, codec.encoder_margin, cyclic=cyclic)
    means, stds = [], []
    for plan in plans:
        part = _take(frames, plan, None).transpose(0, 1).reshape(1, frames.shape[1], -1)
        part = part if device is None else upload(part, device)
        kept = slice(plan.trim_left, plan.trim_left + len(plan.keep))
        mean, std = codec.posterior(part)
        means.append(mean[0, kept])
        stds.append(std[0, kept])
    mean = torch.cat(means)
    if generator is None:
        return mean
    noise = noise_like(mean.new_empty(1, total, mean.shape[1]), generator)[0]
    return mean + torch.cat(stds) * noise[torch.arange(first, first + count, device=mean.device) % total]


def encode_full(
    codec: Codec,
    audio: Tensor,
    *,
    cyclic: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Audio `[2, n]` of any length -> latents `[ceil(n / hop), C]`. Options and errors are `encode_window`'s."""
    total = frames_to_cover(audio.shape[1], codec.sample_rate)
    return encode_window(codec, audio, 0, total, cyclic=cyclic, generator=generator, device=device)


def stream_window(
    playhead_s: float, keep_s: float, total: int, sample_rate: int, *, cyclic: bool = False
) -> StreamWindow:
    """The window of a stream of `total` frames whose playhead is at `playhead_s`.

    Times are rounded to a sample of the codec's rate; then the start down to a frame, and the length up, so that all
    windows of a stream are equally long. A playhead outside a linear piece gets its first or last window; one outside a
    cyclic piece wraps. A window no shorter than the piece is the whole piece, from frame 0.
    Raises DemonError `E_FIELD` for times that are not finite or a window of no length.
    """
    if not (math.isfinite(playhead_s) and math.isfinite(keep_s) and keep_s * sample_rate >= 1):
        raise DemonError("E_FIELD", f"playhead_s is {playhead_s}, keep_s {keep_s}; keep_s must be at least one sample")
    first = frame_of_sample(round(playhead_s * sample_rate), sample_rate)
    count = frames_to_cover(round(keep_s * sample_rate), sample_rate)
    if count >= total:
        first, count = 0, total
    elif cyclic:
        first %= total
    else:
        first = min(max(first, 0), total - count)
    return StreamWindow(Span(first, first + count), first_sample(first, sample_rate))


def sliding_windows(total: int, window: int = 1500, overlap: int = 100) -> tuple[Span, ...]:
    """Windows of one length over `total` frames, each overlapping the next by at least `overlap` frames.

    All start and stop at multiples of `GROUP`, so that patches and codes fall on the same frames in every window: the
    last one ends where `total`, rounded up to such a multiple, does. A piece no longer than a window gets one window.
    Raises DemonError `E_FIELD`.
    """
    if total < 1 or window % GROUP or overlap % GROUP or not 0 <= overlap < window:
        raise DemonError(
            "E_FIELD",
            f"window is {window} and overlap {overlap} frames over {total}: both must be multiples of {GROUP},"
            f" with 0 <= overlap < window, over at least 1 frame",
        )
    end = -(-total // GROUP) * GROUP
    if end <= window:
        return (Span(0, end),)
    regular = range(0, end - window, window - overlap)
    return tuple(Span(first, first + window) for first in (*regular, end - window))


def piece_windows(frames: int) -> tuple[Span, ...]:
    """The windows that a piece of so many frames is generated in: one, or for more than 240 s sliding ones of 60 s."""
    if frames <= LONGEST_WINDOW:
        return (Span(0, frames),)
    return sliding_windows(frames, SLIDING_WINDOW, SLIDING_OVERLAP)


def fade_between(before: Span, after: Span, crossfade: int) -> Span:
    """The frames over which a window fades into the next: in the middle of their overlap. Raises DemonError `E_FIELD`."""
    overlap = before.stop - after.first
    if overlap < crossfade:
        raise DemonError(
            "E_FIELD", f"the window at {after.first} overlaps by {overlap} frames; crossfade needs {crossfade}"
        )
    first = after.first + (overlap - crossfade) // 2
    return Span(first, first + crossfade)


def fade(a: Tensor, b: Tensor) -> Tensor:
    """From `a` to `b`, `[X, C]`, linearly over their frames; equal latents keep their bits."""
    steps = torch.arange(1, len(a) + 1, device=a.device, dtype=a.dtype)
    return a + (steps / (len(a) + 1))[:, None] * (b - a)


def stitch_windows(windows: Mapping[int, Tensor], crossfade: int) -> Tensor:
    """Latents `[T, C]` by their origin frame -> latents `[stop of the last - origin of the first, C]`.

    Each window fades linearly into the next over `crossfade` frames in the middle of their overlap, where both have
    context on either side; equal latents keep their bits. Raises DemonError `E_FIELD` for an overlap shorter than that.
    """
    start, *later = sorted(windows)
    joined = windows[start]
    for origin in later:
        window = windows[origin]
        span = fade_between(Span(start, start + joined.shape[0]), Span(origin, origin + window.shape[0]), crossfade)
        a, b = joined[span.first - start : span.stop - start], window[span.first - origin : span.stop - origin]
        joined = torch.cat([joined[: span.first - start], fade(a, b), window[span.stop - origin :]])
    return joined


def _needed(keep: Span, total: int, margin: int, cyclic: bool) -> Span:
    """The window and its margins, within the piece if it is linear."""
    if cyclic:
        return Span(keep.first - margin, keep.stop + margin)
    return Span(max(0, keep.first - margin), min(total, keep.stop + margin))


def _split_at_seams(first: int, count: int, total: int) -> list[Span]:
    """Frames `[first, first + count)` of an endless loop, cut wherever a turn of `total` frames ends."""
    stop = first + count
    seams = range((first // total + 1) * total, stop, total)
    return [Span(*ends) for ends in pairwise((first, *seams, stop))]


def _fade_end(audio: Tensor, into: Tensor) -> Tensor:
    """Audio `[2, n]` whose last m samples fade linearly into others, `[2, m]`."""
    size = into.shape[1]
    steps = torch.arange(1, size + 1, device=audio.device, dtype=audio.dtype)
    return torch.cat([audio[:, :-size], torch.lerp(audio[:, -size:], into, steps / (size + 1))], dim=1)


def _take(frames: Tensor, plan: WindowPlan, filler: Tensor | None) -> Tensor:
    """The frames of a plan's span, `[total, ...]` -> `[len(span), ...]`; `filler`, one frame, fills its padding."""
    if plan.cyclic:
        return frames[torch.arange(plan.span.first, plan.span.stop, device=frames.device) % plan.total]
    inside = frames[plan.span.first : plan.span.stop]
    if not plan.padding:
        return inside
    if filler is None:
        raise DemonError(
            "E_FIELD", f"{plan.total} frames are fewer than the fixed span of {len(plan.span)}; silence must be given"
        )
    return torch.cat([inside, filler.to(inside).expand(plan.padding, *frames.shape[1:])])


def _frames(audio: Tensor, hop: int, cyclic: bool) -> Tensor:
    """`[2, n]` -> `[ceil(n / hop), 2, hop]`, the last frame filled with zeros."""
    missing = -audio.shape[1] % hop
    if cyclic and missing:
        raise DemonError("E_FIELD", f"a cyclic piece of {audio.shape[1]} samples is no multiple of {hop}")
    padded = torch.nn.functional.pad(audio, (0, missing))
    return padded.reshape(audio.shape[0], -1, hop).transpose(0, 1)
