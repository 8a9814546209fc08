# SPDX-License-Identifier: Apache-2.0
"""Which engines can be built of a checkpoint, what they are called, and which shapes each takes.

An engine takes every shape between the smallest and the largest of its profile and is fastest at the typical one. Durations are
those of the reference engine: 60, 120 and 240 seconds. Frames are latent frames, 1/25 s, and even: the decoder's patch is two.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from engine_server.model.recipes import Precision
from shared_protocol.timebase import FRAMES_PER_SECOND
from trt_engines.profiles import Axes, Span, decoder_axes, vae_decoder_axes, vae_encoder_axes

Component = Literal["decoder", "vae_encode", "vae_decode"]
DEFAULT_PRECISION: Precision = "mixed"
"""Of a decoder; a codec's engine is fp16. Nearer to float32 than bf16, and hardly larger (docs/measurements.md). Of fp16, the
nearest of the small ones on the embedded checkpoint, the stream ends at 65504, which other checkpoints may pass."""
ONE_ROW = Span(1, 1, 1)
DURATIONS_S = (60, 120, 240)
SHORTEST_DECODER_FRAMES = 32
"""Below the window of any track: hop, past and lookahead of the smallest geometry in use have 140."""
CONDITION_TOKENS = Span(16, 256, 2048)
"""Conditions are padded to the checkpoint's length, 256 of ACE-Step's, or a power of two times it: long lyrics have 2048."""
RANGED_DECODE_S = (3, 30)
"""Of a window of audio to export; one that plays decodes WINDOW_FRAMES."""
WINDOW_FRAMES = 25
SHORTEST_ENCODE_S, SHORTEST_DECODE_S, TYPICAL_S = 5, 5, 60
MOST_WIDE_ROWS = 4
"""Rows of a forward that an XL engine takes; of a 2B engine 8."""


@dataclass(frozen=True)
class ModelShape:
    """What engines need to know of a checkpoint, without its weights.

    variant: "" for 2B, else part of names, as "xl". hop_samples: of a latent frame; None for a codec that has no engines, which
    is every other than ACE-Step's own.
    """

    variant: str
    hop_samples: int | None

    @property
    def most_rows(self) -> int:
        """Rows of the largest forward."""
        return MOST_WIDE_ROWS if self.variant == "xl" else 8


@dataclass(frozen=True)
class EngineKind:
    """One engine that can be built. Its name says everything that distinguishes it from the others of its checkpoint."""

    component: Component
    name: str
    precision: Precision
    is_refittable: bool
    duration_s: float
    """The longest that it takes."""
    axes: Axes
    """The sizes that it takes."""

    @property
    def most_frames(self) -> int:
        """The longest that it takes."""
        return round(self.duration_s * FRAMES_PER_SECOND)


def decoder_kind(
    model: ModelShape, duration_s: int, *, precision: Precision = DEFAULT_PRECISION, is_refittable: bool = False
) -> EngineKind:
    """The decoder for windows of up to so many seconds: a batch of rows of even length, each with its condition."""
    rows = model.most_rows
    most = duration_s * FRAMES_PER_SECOND
    parts = ["decoder", model.variant, precision, "refit" if is_refittable else "", f"b{rows}", f"{duration_s}s"]
    return EngineKind(
        "decoder",
        "_".join(part for part in parts if part),
        precision,
        is_refittable,
        float(duration_s),
        decoder_axes(
            Span(1, min(4, rows), rows),
            Span(SHORTEST_DECODER_FRAMES, min(TYPICAL_S * FRAMES_PER_SECOND, most), most),
            CONDITION_TOKENS,
        ),
    )


def encode_kind(model: ModelShape, duration_s: int) -> EngineKind:
    """Source audio of up to so many seconds to the mean and deviation of its latents."""
    assert model.hop_samples is not None
    frames = Span(SHORTEST_ENCODE_S, min(TYPICAL_S, duration_s), duration_s) * FRAMES_PER_SECOND
    name = f"vae_encode_fp16_{duration_s}s"
    axes = vae_encoder_axes(ONE_ROW, frames, hop=model.hop_samples)
    return EngineKind("vae_encode", name, "fp16", False, float(duration_s), axes)


def decode_kind(duration_s: int) -> EngineKind:
    """All latents of up to so many seconds to audio at once."""
    return _decode(
        f"{duration_s}s", Span(SHORTEST_DECODE_S, min(TYPICAL_S, duration_s), duration_s) * FRAMES_PER_SECOND
    )


def ranged_decode_kind() -> EngineKind:
    """Windows of 3 to 30 s, for an export in pieces."""
    shortest, longest = RANGED_DECODE_S
    return _decode(f"{shortest}to{longest}s", Span(shortest, 2 * shortest, longest) * FRAMES_PER_SECOND)


def window_decode_kind() -> EngineKind:
    """The window that plays: always one second, so that no memory is set aside for longer ones."""
    return _decode("1s_fixed", Span(WINDOW_FRAMES, WINDOW_FRAMES, WINDOW_FRAMES))


def build_command(
    checkpoint: str, component: Component, seconds: int, precision: Precision, *, is_refittable: bool = False
) -> str:
    """What builds an engine for up to so many seconds, one of DURATIONS_S, for the GPU that it is run on."""
    which = "--decoder-only" if component == "decoder" else "--vae-only"
    recipe = f" --precision {precision}{' --refit' * is_refittable}" if component == "decoder" else ""
    return f"demon engines build --checkpoint {shlex.quote(checkpoint)} {which} --duration {seconds}{recipe}"


def _decode(length: str, frames: Span) -> EngineKind:
    seconds = frames.most / FRAMES_PER_SECOND
    return EngineKind(
        "vae_decode", f"vae_decode_fp16_{length}", "fp16", False, seconds, vae_decoder_axes(ONE_ROW, frames)
    )


def kinds_to_build(
    model: ModelShape,
    *,
    durations_s: tuple[int, ...] = (60,),
    has_decoder: bool = True,
    has_vae: bool = True,
    precision: Precision = DEFAULT_PRECISION,
    is_refittable: bool = False,
) -> list[EngineKind]:
    """What a build makes, decoders first; nothing of a codec that has no engines.

    Raises ValueError for a duration that is not among DURATIONS_S.
    """
    if unknown := [s for s in durations_s if s not in DURATIONS_S]:
        raise ValueError(f"{unknown[0]} s is not among the durations: {', '.join(map(str, DURATIONS_S))}")
    lengths = sorted(set(durations_s))
    kinds: list[EngineKind] = []
    if has_decoder:
        kinds += [decoder_kind(model, s, precision=precision, is_refittable=is_refittable) for s in lengths]
    if has_vae and model.hop_samples is not None:
        kinds += [window_decode_kind(), ranged_decode_kind()]
        kinds += [kind for s in lengths for kind in (decode_kind(s), encode_kind(model, s))]
    return kinds
