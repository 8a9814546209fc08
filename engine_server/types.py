# SPDX-License-Identifier: Apache-2.0
"""What the Session API takes and gives: audio, latents, sources and conditions. All immutable."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve, finite_curve
from engine_server.model import blends
from engine_server.model.conditioning import Condition

CHANNELS = 2


@dataclass(frozen=True, eq=False)
class Audio:
    """Stereo audio `[2, N]` float32; full scale is 1, and what lies above is kept. Raises ValueError for anything else."""

    waveform: Tensor
    sample_rate: int
    start_sample: int = 0
    """Where it begins in the piece that it belongs to."""

    def __post_init__(self) -> None:
        shape = tuple(self.waveform.shape)
        if len(shape) != 2 or shape[0] != CHANNELS or shape[1] == 0:
            raise ValueError(f"waveform has shape {shape}; (2, samples) is expected")
        if not self.waveform.is_floating_point() or not bool(torch.isfinite(self.waveform).all()):
            raise ValueError("waveform must hold finite floats, full scale being 1")
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate is {self.sample_rate}; Hz, at least 1, are expected")

    @classmethod
    def of(cls, samples: NDArray[np.floating] | Tensor, sample_rate: int) -> Audio:
        """From an array of floats `[N]`, `[1, N]` or `[2, N]`; mono is played on both sides."""
        waveform = torch.as_tensor(samples)
        waveform = waveform.to(torch.float32) if waveform.is_floating_point() else waveform
        if waveform.ndim == 1:
            waveform = waveform[None]
        is_mono = waveform.ndim == 2 and waveform.shape[0] == 1
        return cls(waveform.expand(CHANNELS, -1) if is_mono else waveform, sample_rate)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[1] / self.sample_rate

    @property
    def peak(self) -> float:
        """Largest absolute sample; above 1 it exceeds full scale."""
        return float(self.waveform.abs().max())


@dataclass(frozen=True, eq=False)
class Latent:
    """Codec latents `[T, C]` float32, a frame per 1/25 s."""

    frames: Tensor
    origin_frame: int = 0
    """Where they begin in their piece."""
    request_id: Hashable | None = None
    """The stream's request that they are the result of."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 2 or self.frames.shape[0] == 0:
            raise ValueError(f"frames have shape {tuple(self.frames.shape)}; (T, channels) is expected")

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def part(self, first: int, frames: int) -> Latent:
        """Frames `[first, first + frames)`, the last one held beyond the end, placed where they belong in the piece."""
        return Latent(held(self.frames, first, frames), self.origin_frame + first)

    def blended(self, other: Latent, alpha: CurveLike) -> Latent:
        """Moved towards another by a number or a curve `[T]`; 0 and 1 are exactly this and the other."""
        return replace(self, frames=blends.lerp(self.frames, other.frames, alpha, name="alpha"), request_id=None)


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """A piece, encoded: its latents, and the structure that the decoder sees of it, both `[T, C]`, else ValueError."""

    latent: Latent
    context_latent: Latent
    samples: int
    """Length of the audio at the model's rate, before it was filled up to whole frames."""

    def __post_init__(self) -> None:
        if len(self.context_latent) != len(self.latent):
            raise ValueError(
                f"context_latent has {len(self.context_latent)} frames; the {len(self.latent)} of the latent are expected"
            )

    def __len__(self) -> int:
        return len(self.latent)


@dataclass(frozen=True, eq=False)
class Entry:
    """One of the prompts of a `Conditioning`: its weight per frame, and the part of the schedule where it is active."""

    condition: Condition
    weight: CurveLike | None = None
    step_range: tuple[float, float] | None = None

    def scaled(self, factor: Tensor) -> Entry:
        """With its weight times a curve `[1, n, 1]`; the shorter of two drawn curves is stretched to the longer."""
        if self.weight is None:
            return replace(self, weight=factor)
        weight = finite_curve(self.weight, name="weight")
        frames = max(weight.shape[1], factor.shape[1])
        ours, theirs = (canonical_curve(each, frames, name="weight", resample=True) for each in (weight, factor))
        return replace(self, weight=ours * theirs)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a generation is told: one prompt, or several of which each acts with its own weight."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, condition: Condition) -> Conditioning:
        """A single prompt."""
        return cls((Entry(condition),))

    @property
    def first(self) -> Condition:
        """The primary prompt."""
        return self.entries[0].condition

    def blended(self, other: Conditioning, alpha: float) -> Conditioning:
        """One prompt between two: the encodings are mixed, one forward as before."""
        return Conditioning.of(blends.blend(self.first, other.first, alpha))

    def averaged(self, other: Conditioning, weight: float) -> Conditioning:
        """As `blended`, at this prompt's own length."""
        return Conditioning.of(blends.average(self.first, other.first, weight))

    def combined(
        self,
        other: Conditioning,
        *,
        weight: CurveLike | None = None,
        step_range: tuple[float, float] | None = None,
    ) -> Conditioning:
        """Both prompts at once: a forward for each, the velocities mixed per frame.

        weight: the other's share, a number or a curve in [0, 1]; this one gets the rest, divided among its prompts as before.
        Without it both count alike. step_range: the part of the schedule where the other is active.

        Raises ValueError for a weight that leaves its range.
        """
        ours, theirs = self.entries, other.entries
        if weight is not None:
            share = finite_curve(weight, name="weight", lo=0.0, hi=1.0)
            ours = tuple(entry.scaled(1.0 - share) for entry in ours)
            theirs = tuple(entry.scaled(share) for entry in theirs)
        theirs = tuple(replace(entry, step_range=step_range or entry.step_range) for entry in theirs)
        return Conditioning(ours + theirs)

    def part(self, first: int, frames: int, total: int) -> Conditioning:
        """What belongs to frames `[first, first + frames)` of a piece of `total`: the weights, cut like any curve."""

        def cut(entry: Entry) -> Entry:
            weight = entry.weight
            return (
                entry if weight is None else replace(entry, weight=curve_part(weight, first, frames, total, "weight"))
            )

        return Conditioning(tuple(map(cut, self.entries)))


@dataclass(frozen=True, eq=False)
class NoiseMask:
    """Inpainting for `generate` and `stream`: 1 generates a frame, 0 keeps it as it is in `original`."""

    mask: CurveLike
    original: Latent


def curve_part(value: CurveLike, first: int, frames: int, total: int, name: str) -> Tensor:
    """Frames `[first, first + frames)` of a curve over `total`, `[1, 1 or frames, C]`; the last value is held beyond the end."""
    curve = canonical_curve(value, total, name=name, resample=True)
    return curve if curve.shape[1] == 1 else held(curve[0], first, frames)[None]


def held(values: Tensor, first: int, frames: int) -> Tensor:
    """`values[first : first + frames]`, the last value held beyond the end."""
    part = values[first : first + frames]
    missing = frames - len(part)
    return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
