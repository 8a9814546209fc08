# SPDX-License-Identifier: Apache-2.0
"""Rows of the bench, and how times are taken: what is compared runs in turn, and medians are compared."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Action = Callable[[], object]

HIGHER_IS_BETTER = ("ticks/s", "generations/s")
"""Units of rates. Of all others (times, memory, growth) less is better."""


@dataclass(frozen=True)
class Target:
    """What a row should reach: `ratio` at least, or `measured` at most, a limit."""

    of: str
    limit: float

    def __post_init__(self) -> None:
        if self.of not in ("ratio", "measured"):
            raise ValueError(f"of is {self.of!r}; ratio or measured is expected")

    def is_met(self, row: Row) -> bool:
        """Whether a row reaches it."""
        return row.ratio >= self.limit if self.of == "ratio" else row.measured <= self.limit

    def __str__(self) -> str:
        return f">= {self.limit:g} x" if self.of == "ratio" else f"<= {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One comparison. `measured` and `baseline` are in `unit`."""

    name: str
    measured: float
    against: str
    """What the baseline is."""
    baseline: float
    unit: str
    ratio_range: tuple[float, float] | None = None
    """Lowest and highest ratio of a single round; None where there is one round or none."""
    target: Target | None = None
    error: float | None = None
    """Relative L2 error of the measured result against the baseline's."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better than the baseline: above 1 is faster, or smaller."""
        return _ratio(self.measured, self.baseline, self.unit)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None else self.target.is_met(self)

    def as_json(self) -> dict[str, Any]:
        """The fields, `ratio` and `met`."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def interleaved(actions: Mapping[str, Action], rounds: int) -> dict[str, list[float]]:
    """Seconds of every action in every round, all taken in turn after one run of each that does not count."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            seconds[name].append(timed(action))
    return seconds


def timed(action: Action) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def compared(
    name: str,
    measured: Sequence[float],
    against: str,
    baseline: Sequence[float],
    *,
    unit: str = "ms",
    value: Callable[[float], float] = lambda seconds: 1000 * seconds,
    baseline_value: Callable[[float], float] | None = None,
    **more: Any,
) -> Row:
    """A row from the seconds of two series of the same rounds; `value` turns seconds into the unit."""
    value_of_baseline = baseline_value or value
    ours = [value(seconds) for seconds in measured]
    theirs = [value_of_baseline(seconds) for seconds in baseline]
    ratios = sorted(_ratio(own, other, unit) for own, other in zip(ours, theirs, strict=True))
    return Row(
        name,
        statistics.median(ours),
        against,
        statistics.median(theirs),
        unit,
        ratio_range=(ratios[0], ratios[-1]) if len(ratios) > 1 else None,
        **more,
    )


def _ratio(measured: float, baseline: float, unit: str) -> float:
    better = (measured, baseline) if unit in HIGHER_IS_BETTER else (baseline, measured)
    return operator.truediv(*better)
