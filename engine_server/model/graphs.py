# SPDX-License-Identifier: Apache-2.0
"""A forward recorded once per form as a CUDA graph, and replayed: one launch in the place of hundreds, and no guard is asked.

Recorded here, not by torch's `reduce-overhead` mode: what is an input and what stays in place is known here. Inputs have buffers
of their own, into which a call copies what is new. Weights and the factors of adapters are read from where they lie, so that they
may be changed in place at any time; if weights move, the recordings are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Records CUDA graphs that share their memory. That is safe as long as each result is copied before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, forward: Forward) -> Forward:
        """Run, then record. Raises DemonError `E_BACKEND` if that is not possible; what `forward` raises goes through."""
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(RUNS_BEFORE_RECORDING):
                forward()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile: what they do is none of the graph's business.
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                out = forward()
        except RuntimeError as error:
            raise DemonError(
                "E_BACKEND", f"the decoder could not be recorded ({error}); use the eager backend"
            ) from error
        self._pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


class GraphedVelocity:
    """A `Velocity` that replays what `record` made of another one. One thread; inference only."""

    def __init__(self, run: Programs, record: Recorder) -> None:
        self._run = run
        self._record = record
        self._recordings: dict[tuple[Any, ...], _Recording] = {}
        self._weights: tuple[int, ...] = ()

    @property
    def programs(self) -> int:
        """See `Programs`."""
        return self._run.programs

    def weights_changed(self, model: Any) -> None:
        """Forget the recordings if weights are no longer where they were; changes in place are heard anyway."""
        if self._weights != _places(model):
            self._recordings.clear()

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
            self._weights = _places(model)
            self._recordings[form] = self._recorded(model, inputs, adapters)
        return self._recordings[form](inputs)

    def _recorded(self, model: Any, inputs: Sequence[Tensor | None], adapters: StackedAdapters | None) -> _Recording:
        buffers: list[Any] = [None if part is None else part.clone() for part in inputs]
        frames, t, embedding, modulation, bias, keys, values, strengths, *tables = buffers
        beside = None if adapters is None else adapters._replace(strengths=strengths)

        def forward() -> Tensor:
            return self._run(model, frames, t, (embedding, modulation), Tables(*tables), (bias, keys, values), beside)

        return _Recording(buffers, self._record(forward))


class _Recording:
    """Buffers, and what replays over them."""

    def __init__(self, buffers: Sequence[Tensor | None], replay: Forward) -> None:
        self._buffers = buffers
        self._replay = replay
        self._held: list[tuple[Tensor, int] | None] = [None] * len(buffers)
        """What was copied last, and its version: conditions and tables are mostly those of the call before."""

    def __call__(self, inputs: Sequence[Tensor | None]) -> Tensor:
        for place, (buffer, given) in enumerate(zip(self._buffers, inputs, strict=True)):
            if buffer is not None and given is not None and not _is_same(given, self._held[place]):
                buffer.copy_(given)
                self._held[place] = None if given.is_inference() else (given, given._version)
        return self._replay().clone()


def _is_same(given: Tensor, held: tuple[Tensor, int] | None) -> bool:
    """Whether a tensor is the one held, unwritten since."""
    return held is not None and given is held[0] and given._version == held[1]


def _places(model: Any) -> tuple[int, ...]:
    return tuple(weight.data_ptr() for weight in model.parameters())
