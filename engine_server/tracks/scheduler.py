# SPDX-License-Identifier: Apache-2.0
"""Which hop gets the next slot, and for whom others stand still: pure policy, without clock, tracks or tensors.

Live streams come first, the earliest deadline before all others; then loops, then what is offline. What has no deadline takes
turns, and so do live hops whose deadline has passed: they come after those that can still be in time, so that one stream with a
long backlog does not make all others late as well. Who comes second within these two pairs is never left out for good: after
`MOST_PASSED_OVER` slots it gets one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from engine_server.tracks.windows import NEVER, HopId, Rank

MOST_PASSED_OVER = 7
"""Slots of a ring that loops get in a row while something offline waits for one, and live hops in time while late ones wait."""
MOST_HELD_BACK = 3
"""Steps in a row for which other rings may stand still for the sake of a live stream that is late."""

Line = tuple[str, int]
"""Track and epoch: their hops wait in one line, and every line has its turn."""


class _Class(IntEnum):
    """In this order slots are given away."""

    IN_TIME = 0
    LATE = 1
    LOOP = 2
    OFFLINE = 3


def _after(its: _Class) -> _Class | None:
    """The class that gets one slot of `MOST_PASSED_OVER + 1` even while this one waits."""
    return {_Class.IN_TIME: _Class.LATE, _Class.LOOP: _Class.OFFLINE}.get(its)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A hop that waits for a slot. deadline: when the host needs its audio, in seconds of the engine's clock."""

    hop: HopId
    rank: Rank
    deadline: float = NEVER

    @property
    def line(self) -> Line:
        """Where it waits."""
        return self.hop.track, self.hop.epoch

    def is_late(self, now: float, seconds: float = 0.0) -> bool:
        """Whether it misses its deadline if it takes so many seconds from now on."""
        return self.rank is Rank.LIVE and now + seconds > self.deadline


@dataclass(slots=True)
class _Place:
    """A line's place: the lower `arrival`, the longer it waits. passed_over: slots that others got before it, out of rank."""

    arrival: int
    passed_over: int = 0


class Scheduler:
    """`begin` says who waits, `choose` asks, `give` tells. One thread; it remembers nobody who does not wait."""

    def __init__(self) -> None:
        self._arrivals = itertools.count()
        self._places: dict[Line, _Place] = {}

    def __len__(self) -> int:
        """Lines that are remembered."""
        return len(self._places)

    def begin(self, waiting: Iterable[Waiting]) -> None:
        """These wait now. Who waited before keeps the place in the line; the others are forgotten."""
        known = self._places
        self._places = {each.line: known.get(each.line) or self._arrived() for each in waiting}

    def choose(self, waiting: Sequence[Waiting], now: float) -> Waiting:
        """Of hops that wait for a slot of the same ring, the one to get it. At least one must wait."""
        groups: dict[_Class, list[Waiting]] = {}
        for each in waiting:
            groups.setdefault(_class_of(each, now), []).append(each)
        first = min(groups)
        owed = [each for its, group in groups.items() if its is _after(first) for each in group if self._is_owed(each)]
        if owed:
            return min(owed, key=self._arrival)
        if first is _Class.IN_TIME:
            return min(groups[first], key=lambda each: (each.deadline, self._arrival(each)))
        return min(groups[first], key=self._arrival)

    def give(self, chosen: Waiting, waiting: Iterable[Waiting], now: float) -> None:
        """A slot is given to one of those that `choose` was asked about: its line goes to the end."""
        its = _class_of(chosen, now)
        for each in waiting:
            other = _class_of(each, now)
            if other is _after(its):
                self._place(each).passed_over += 1
            elif other is its:
                self._place(each).passed_over = 0
        self._places[chosen.line] = self._arrived()

    def _is_owed(self, waiting: Waiting) -> bool:
        return self._place(waiting).passed_over >= MOST_PASSED_OVER

    def _arrival(self, waiting: Waiting) -> int:
        return self._place(waiting).arrival

    def _place(self, waiting: Waiting) -> _Place:
        if waiting.line not in self._places:
            self._places[waiting.line] = self._arrived()
        return self._places[waiting.line]

    def _arrived(self) -> _Place:
        return _Place(next(self._arrivals))


class Queue:
    """Who waits for a piece of work beside the ring, in order: whoever had a turn goes to the end. One thread."""

    def __init__(self) -> None:
        self._lines: dict[Line, None] = {}

    def next(self, waiting: Iterable[Line], most: int) -> list[Line]:
        """The next ones of those that wait now, at most so many; the others are forgotten or keep their places."""
        wanted = dict.fromkeys(waiting)
        ordered = [line for line in self._lines if line in wanted]
        ordered += [line for line in wanted if line not in self._lines]
        chosen = ordered[:most]
        self._lines = dict.fromkeys(ordered[most:] + chosen)
        return chosen


class Precedence:
    """Whether all others stand still for a step because a live stream is about to be late. One thread."""

    def __init__(self) -> None:
        self._held_back = 0

    def decide(self, *, is_late: bool) -> bool:
        """Once a step. Not more than `MOST_HELD_BACK` times in a row."""
        self._held_back = self._held_back + 1 if is_late and self._held_back < MOST_HELD_BACK else 0
        return self._held_back > 0


def _class_of(waiting: Waiting, now: float) -> _Class:
    if waiting.rank is Rank.LIVE:
        return _Class.LATE if waiting.is_late(now) else _Class.IN_TIME
    return _Class.LOOP if waiting.rank is Rank.LOOP else _Class.OFFLINE
