# SPDX-License-Identifier: Apache-2.0
"""What one combination of model, duration, depth and backend takes on a device: time, beside its arithmetic, and memory."""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from engine_server.bench.busy_ring import STEPS, BusyRing, MarkedDecoder
from engine_server.bench.clock import Clock
from engine_server.bench.flops import forward_flops
from engine_server.bench.models import BenchModel, make_codec, random_encoders, random_transformer
from engine_server.diffusion.rows import RingShape
from engine_server.model.backends import make_decoder
from engine_server.model.codec import Codec
from engine_server.model.placement import Placement
from engine_server.model.static_decoder import StaticDecoder
from engine_server.model.windows import decode_window
from shared_protocol.errors import DemonError
from shared_protocol.timebase import FRAMES_PER_SECOND

DECODED_S = 3
LEAST_ROUNDS, MOST_ROUNDS = 2, 25
"""Of `STEPS` ticks each, however short they are."""
DECODES = 20
SYNCHRONISING = "called a synchronizing"
"""CUDA's warning, as torch words it."""


@dataclass(frozen=True)
class Combination:
    """What to measure."""

    model: BenchModel
    duration_s: float
    depth: int
    backend: str
    quantization: str | None = None
    """As `make_decoder` takes it."""

    @property
    def frames(self) -> int:
        """Latent frames of a generation."""
        return round(self.duration_s * FRAMES_PER_SECOND)

    @property
    def flops(self) -> float:
        """Operations of a tick with one row for each slot: rows that only fill up a batch are no work to be done."""
        return forward_flops(self.model.decoder, self.depth, self.frames, self.model.condition_tokens)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that torch has allocated on a GPU; what CUDA itself takes is not among them."""

    decoder: int
    """Weights; so are the next two."""
    encoders: int
    codec: int
    ring: int
    """Slots, and what is kept of shapes, before any tick's own work."""
    peak: int
    """Of all at once, within a tick or a decode; nothing is encoded meanwhile."""


@dataclass(frozen=True)
class Figures:
    """What was measured. Times are medians but for the 99th percentile."""

    rows: float
    """Of all forwards of a tick: a row for each slot, and those that only fill up a batch."""
    tick_ms: float
    tick_p99_ms: float
    floor_ms: float
    """Of a tick's arithmetic alone, at the rate at which the device multiplies large matrices."""
    generations_per_s: float
    convergence_ms: float
    """From a generation's submission to its latents, in a full ring."""
    outside: float
    """Share of the ticks outside the decoder's forward."""
    decode_ms: float
    """Of `DECODED_S` out of the middle of a piece, with the codec's margins."""
    waits_per_tick: float | None
    """Calls that wait for the GPU; None on a CPU."""
    memory: DeviceMemory | None
    """None on a CPU."""
    ticks: int
    """How many were measured."""

    @property
    def over_floor(self) -> float:
        """The median tick, in floors."""
        return self.tick_ms / self.floor_ms


@torch.no_grad()
def measure(what: Combination, place: Placement, rate: float, *, budget_s: float = 5.0) -> Figures:
    """Make the combination's models and ring, and measure them for about `budget_s` after their warm-up; 16 ticks at least.

    rate: operations per second that `matrix_rate` gave for the same placement. Raises DemonError `E_BACKEND` for what cannot be
    run here, and torch.OutOfMemoryError.
    """
    if what.backend == "tensorrt":
        raise DemonError("E_BACKEND", "this benchmark has no TensorRT engines of these sizes; choose eager or compile")
    model, clock, memory = what.model, Clock(place.device), _Growth(place.device)
    transformer = random_transformer(model.decoder, place)
    decoder = make_decoder(transformer, backend=what.backend, quantization=what.quantization)
    decoder_bytes = memory.grown()
    is_cuda = place.device.type == "cuda"
    encoders = random_encoders(model, place) if is_cuda else []  # to lie there, as in an engine: only memory shows them
    encoder_bytes = memory.grown() if encoders else 0
    codec = make_codec(model, place.device)
    codec_bytes = memory.grown()
    shape = RingShape(what.depth, what.frames, model.channels, model.condition_tokens, model.condition_width)
    if isinstance(decoder, StaticDecoder):
        decoder.warm_up_ring(shape)
    marked = MarkedDecoder(decoder, clock)
    ring = BusyRing(marked, shape, place.device, clock)
    ring_bytes = memory.grown()
    played = _play(ring, marked, clock, budget_s)
    decode_s = _decodes(codec, what.frames, place.device, clock)
    peak_bytes = memory.peak()
    return Figures(
        rows=marked.rows / len(played.tick_s),
        tick_ms=1000 * statistics.median(played.tick_s),
        tick_p99_ms=1000 * float(np.percentile(played.tick_s, 99)),
        floor_ms=1000 * what.flops / rate,
        generations_per_s=played.finished / played.seconds,
        convergence_ms=1000 * statistics.median(played.generation_s),
        outside=1 - played.forward_s / sum(played.tick_s),
        decode_ms=1000 * statistics.median(decode_s),
        waits_per_tick=_waits_per_tick(ring) if is_cuda else None,
        memory=DeviceMemory(decoder_bytes, encoder_bytes, codec_bytes, ring_bytes, peak_bytes) if is_cuda else None,
        ticks=len(played.tick_s),
    )


@dataclass(frozen=True)
class _Played:
    """Seconds of every tick, of whole generations, of all forwards, and of all this with the submissions between."""

    tick_s: list[float]
    generation_s: list[float]
    finished: int
    forward_s: float
    seconds: float


def _play(ring: BusyRing, decoder: MarkedDecoder, clock: Clock, budget_s: float) -> _Played:
    """Whole generations' worth of ticks, in which every slot finishes once: two, and more within the budget.

    In the first finish those that were in flight before, so that generations are timed from the second on.
    """
    clock.wait()
    ring.taken_marks()
    decoder.forget()
    first, began = clock.mark(), time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > budget_s:
            break
        for _ in range(STEPS):
            ring.refill()
            ring.tick()
    last, marks = clock.mark(), ring.taken_marks()
    clock.wait()
    return _Played(
        [clock.seconds(*pair) for pair in marks.ticks],
        [clock.seconds(*pair) for pair in marks.generations],
        marks.finished,
        sum(clock.seconds(*pair) for pair in decoder.marks),
        clock.seconds(first, last),
    )


def _decodes(codec: Codec, frames: int, device: torch.device, clock: Clock) -> list[float]:
    """Seconds of windows of `DECODED_S`, or of all that there is, after two that do not count."""
    latents = torch.randn(frames, codec.latent_channels, generator=torch.Generator().manual_seed(1)).to(device)
    count = min(frames, DECODED_S * FRAMES_PER_SECOND)
    marks = []
    for _ in range(DECODES + 2):
        first = clock.mark()
        decode_window(codec, latents, (frames - count) // 2, count)
        marks.append((first, clock.mark()))
    clock.wait()
    return [clock.seconds(*pair) for pair in marks[2:]]


def _waits_per_tick(ring: BusyRing) -> float:
    """Calls in a tick that wait for the GPU, by CUDA's own count, over a generation of every slot."""
    waits = 0
    for _ in range(STEPS):
        ring.refill()  # which waits, to see whether what it is given is finite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                ring.tick()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits += sum(SYNCHRONISING in str(one.message) for one in caught)
    return waits / STEPS


class _Growth:
    """Bytes that torch allocates on a GPU; 0 everywhere else."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        self._start = self._before = self._allocated()

    def grown(self) -> int:
        """Since the last call, or since the beginning."""
        now = self._allocated()
        grown, self._before = now - self._before, now
        return grown

    def peak(self) -> int:
        """The most since the beginning, less what was there before."""
        return torch.cuda.max_memory_allocated(self._device) - self._start if self._is_cuda else 0

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device) if self._is_cuda else 0
