# SPDX-License-Identifier: Apache-2.0
"""Lines of the benchmark: figures of a combination, or why there are none; and what is wanted of ACE-Step 2B on an H200."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine_server.bench.measure import Combination, Figures, measure
from engine_server.model.memory import memory_full
from engine_server.model.placement import Placement
from shared_protocol.errors import DemonError


@dataclass(frozen=True)
class Line:
    """Either `figures` or, in `reason`, why there are none."""

    what: Combination
    figures: Figures | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Sizes, figures and derived ones."""
        what, figures = self.what, self.figures
        return {
            "model": what.model.name,
            "duration_s": what.duration_s,
            "depth": what.depth,
            "backend": what.backend,
            "quantization": what.quantization,
            "tick_flops": what.flops,
            "figures": None if figures is None else {**asdict(figures), "over_floor": figures.over_floor},
            "reason": self.reason,
        }


def lines(combinations: Sequence[Combination], place: Placement, rate: float, budget_s: float) -> Iterator[Line]:
    """A line for each, as it becomes known. See `measure`; what cannot be run there is a line with its reason."""
    for what in combinations:
        try:
            line = Line(what, measure(what, place, rate, budget_s=budget_s))
        except DemonError as error:
            line = Line(what, None, str(error))
        except torch.OutOfMemoryError as error:
            line = Line(what, None, str(memory_full(error, "measure a smaller depth or a shorter duration")))
        # A model of 8 GB must be gone before the next one comes, and cycles hold it.
        gc.collect()
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
        yield line


@dataclass(frozen=True)
class Target:
    """What a figure should be: `limit` at most, or at least."""

    name: str
    measured: float | None
    limit: float
    is_least: bool = False

    def __str__(self) -> str:
        wanted = f"{self.name} {'>=' if self.is_least else '<='} {self.limit:g}"
        if self.measured is None:
            return f"{wanted}: not measured"
        met = self.measured >= self.limit if self.is_least else self.measured <= self.limit
        return f"{wanted}: {self.measured:.3g}, {'met' if met else 'missed'}"


def is_judged(what: Combination) -> bool:
    """Whether targets are for this: ACE-Step 2B, 60 s, depth 4."""
    return (what.model.name, what.duration_s, what.depth) == ("2b", 60, 4)


def targets(what: Combination, figures: Figures) -> list[Target]:
    """For a combination that `is_judged`, on an H200 in bfloat16; floors of bfloat16 say nothing of a quantization."""
    memory = figures.memory
    ticks = [
        Target("tick in floors", figures.over_floor, 1.3),
        Target("generations/s", figures.generations_per_s, 30, is_least=True),
    ]
    return [
        *([Target("tick in ms", figures.tick_ms, 10)] if what.quantization else ticks),
        Target("decode of 3 s in ms", figures.decode_ms, 3),
        Target("% of a tick outside the forward", 100 * figures.outside, 3),
        Target("GB of GPU memory", None if memory is None else memory.peak / 1e9, 12),
        Target("waits in a tick", figures.waits_per_tick, 0),
    ]
