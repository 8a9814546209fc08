# SPDX-License-Identifier: Apache-2.0
"""A forward recorded once per form as a CUDA graph, and replayed: one launch in the place of hundreds, and no guard is asked.

Recorded here, not by torch's `reduce-overhead` mode: what is an input and what stays in place is known here. Inputs have buffers
of their own, into which a call copies what is new; forms share those of equal shape, since a condition is large. Weights and the
factors of adapters are read from where they lie, so that they may be changed in place between two calls; what reads from places
that were left is forgotten.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine_server.model.dit_block import StackedAdapters, Tables
from shared_protocol.errors import DemonError

RUNS_BEFORE_RECORDING = 2
"""The first run compiles and tunes, which no graph may hold; the second shows that it is done."""


class Programs(Protocol):
    """A `Velocity` that counts what it compiled."""

    @property
    def programs(self) -> int:
        """Compiled so far."""
        ...

    def __call__(self, *arguments: Any) -> Tensor:
        """See `velocity`."""
        ...


Forward = Callable[[], Tensor]
"""What is recorded, and what a recording is: it reads its buffers, and its result lies where it lay the time before."""
Recorder = Callable[[Forward], Forward]


class CudaRecorder:
    """Records CUDA graphs that share their memory; safe as long as each result is copied before the next replay. One thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._aside: torch.cuda.Stream | None = None
        """One for all recordings: torch gives memory that was freed on a stream to the same stream only."""
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        """Those that live. The memory that they share dies with the last of them, and torch fails on its name afterwards."""

    def __call__(self, forward: Forward) -> Forward:
        """Run, then record. Raises DemonError `E_BACKEND` if that is not possible; what `forward` raises when it is run, and
        torch.OutOfMemoryError, go through."""
        current = torch.cuda.current_stream(self._device)
        aside = self._aside = self._aside or torch.cuda.Stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(RUNS_BEFORE_RECORDING):
                forward()
        current.wait_stream(aside)
        graph, pool = torch.cuda.CUDAGraph(), next((graph.pool() for graph in self._graphs), None)
        try:
            # Other threads may use the GPU meanwhile: what they do is none of the graph's business. And a recording that fails
            # leaves its stream in force, which the outer block takes back.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"),
            ):
                out = forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DemonError(
                "E_BACKEND", f"the decoder could not be recorded ({error}); use the eager backend"
            ) from error
        self._graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


class GraphedVelocity:
    """A `Velocity` that replays what `record` made of another one. One thread; inference only.

    A call raises what `record` raises, and remembers nothing of a recording that failed.
    """

    def __init__(self, run: Programs, record: Recorder) -> None:
        self._run = run
        self._record = record
        self._recordings: dict[tuple[Any, ...], _Recording] = {}
        self._buffers: weakref.WeakValueDictionary[tuple[Any, ...], _Buffer] = weakref.WeakValueDictionary()
        """By place among the inputs, shape and dtype; each lives as long as a recording that reads it."""

    @property
    def programs(self) -> int:
        """See `Programs`."""
        return self._run.programs

    def weights_changed(self, model: Any) -> None:
        """Forget the recordings whose weights are no longer where they were; changes in place are heard anyway."""
        kept = {form: each for form, each in self._recordings.items() if each.places == _places(model, each.adapters)}
        self._recordings = kept

    def __call__(
        self,
        model: Any,
        frames: Tensor,
        t: Tensor,
        second_time: tuple[Tensor, Tensor],
        tables: Tables,
        condition: tuple[Tensor, Tensor, Tensor],
        adapters: StackedAdapters | None,
    ) -> Tensor:
        """See `velocity`. The result is the caller's."""
        strengths = None if adapters is None else adapters.strengths
        inputs = (frames, t, *second_time, *condition, strengths, *tables)
        form = tuple(None if part is None else (part.shape, part.dtype) for part in inputs)
        if form not in self._recordings:
            self.weights_changed(model)  # factors of adapters move when their stack grows, and leave recordings behind
            self._recordings[form] = self._recorded(model, inputs, adapters)
        recording = self._recordings[form]
        _take(recording.buffers, inputs)
        return recording.replay().clone()

    def _recorded(self, model: Any, inputs: Sequence[Tensor | None], adapters: StackedAdapters | None) -> _Recording:
        buffers = [None if part is None else self._buffer(place, part) for place, part in enumerate(inputs)]
        _take(buffers, inputs)
        tensors: list[Any] = [None if buffer is None else buffer.tensor for buffer in buffers]
        frames, t, embedding, modulation, bias, keys, values, strengths, *tables = tensors
        beside = None if adapters is None else adapters._replace(strengths=strengths)

        def forward() -> Tensor:
            return self._run(model, frames, t, (embedding, modulation), Tables(*tables), (bias, keys, values), beside)

        return _Recording(buffers, self._record(forward), adapters, _places(model, adapters))

    def _buffer(self, place: int, like: Tensor) -> _Buffer:
        key = (place, like.shape, like.dtype)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = _Buffer(like)
        return buffer


class _Buffer:
    """A tensor that stays where it is, and what was copied into it last, as long as that lives."""

    def __init__(self, like: Tensor) -> None:
        with torch.inference_mode(False):  # else nobody outside of that mode may write to it
            self.tensor = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        self._held: tuple[weakref.ref[Tensor], int] | None = None

    def take(self, given: Tensor) -> None:
        """Hold these values. Conditions and tables are mostly those of the call before, which need no copy."""
        if self._held is not None and self._held[0]() is given and self._held[1] == given._version:
            return
        self.tensor.copy_(given)
        # A tensor of the inference mode does not count what is written to it.
        self._held = None if given.is_inference() else (weakref.ref(given), given._version)


@dataclass(frozen=True)
class _Recording:
    """Buffers, what replays over them, and where it reads the rest."""

    buffers: Sequence[_Buffer | None]
    replay: Forward
    adapters: StackedAdapters | None
    places: tuple[int, ...]


def _take(buffers: Sequence[_Buffer | None], inputs: Sequence[Tensor | None]) -> None:
    for buffer, given in zip(buffers, inputs, strict=True):
        if buffer is not None and given is not None:
            buffer.take(given)


def _places(model: Any, adapters: StackedAdapters | None) -> tuple[int, ...]:
    """Addresses of all that a forward reads where it lies: int8 and FP8 weights are buffers of a module, not parameters."""
    factors = [] if adapters is None else [factor for pair in adapters.pairs.values() for factor in pair]
    return tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers(), *factors))
