# SPDX-License-Identifier: Apache-2.0
"""Streams and events of a simulated GPU. Values are there at once; who may rely on them is kept book of.

Every stream, event and the host know how much of each stream's work is done when their own goes on (vector clocks, Mattern 1989).
Work that reads what another stream has yet to write, or writes what another one may still read, raises, however the two would
have come to lie in time. Memory that is given back while a stream other than its own may still use it is a hazard. What is
copied to the host without waiting is NaN there until the host waits for an event, or asks one on a GPU that is fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

Clock = dict["Stream", int]
"""By stream: so many of its launches are done."""


class Stream:
    """A queue of launches."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.known: Clock = {self: 0}

    def wait_stream(self, other: Stream) -> None:
        """What is launched from now on comes after all that was launched on another stream so far."""
        _learn(self.known, other.known)

    def synchronize(self) -> None:
        """The host waits for all of it."""
        self._streams.wait("stream", self.known)


class Event:
    """A point in a stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._known: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        """After what was launched on the stream so far."""
        self._known = dict((stream or self._streams.current).known)

    def query(self) -> bool:
        """Whether the stream has come so far: on a slow GPU only where the host has waited for it."""
        if self._streams.is_fast:
            self._streams.learn(self._known)
        return all(self._streams.host.get(stream, 0) >= count for stream, count in self._known.items())

    def synchronize(self) -> None:
        """The host waits for it."""
        self._streams.wait("event", self._known)


class Block:
    """Memory of a stream, as its tensors share it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._home = streams.current
        self.written: Clock = {}
        self.read: Clock = {}
        self._kept: set[Stream] = set()

    def keep_for(self, stream: Stream) -> None:
        """See `Tensor.record_stream`."""
        self._kept.add(stream)

    def __del__(self) -> None:
        for stream, count in {**self.written, **self.read}.items():
            done = max(self._home.known.get(stream, 0), self._streams.host.get(stream, 0))
            if stream not in self._kept and done < count:
                self._streams.hazards.append("memory is given back that another stream may still use")


class Streams:
    """The account of one GPU."""

    def __init__(self) -> None:
        self.current = Stream(self)
        self.host: Clock = {}
        self.waits: list[str] = []
        """What the host has waited for."""
        self.hazards: list[str] = []
        self.is_fast = False
        """Whether the GPU has done everything whenever it is asked."""
        self._late: list[tuple[Stream, int, Callable[[], object]]] = []

    def launch(self, reads: Iterable[Block], writes: Iterable[Block]) -> None:
        """Work on the current stream. Raises AssertionError where nothing orders it after what it depends on."""
        stream = self.current
        _learn(stream.known, self.host)
        for block in reads:
            self._check(block.written, "reads what another one has yet to write")
            block.read[stream] = stream.known[stream] + 1
        for block in writes:
            self._check(block.written, "writes what another one has yet to write")
            self._check(block.read, "writes what another one may still read")
            block.written = {stream: stream.known[stream] + 1}
        stream.known[stream] += 1

    def deliver_late(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """The last launch copies values to the host: they are there once the host knows that it is done."""
        target.fill_(math.nan)
        count = self.current.known[self.current]
        self._late.append((self.current, count, lambda: target.copy_(values)))

    def wait(self, what: str, known: Clock) -> None:
        """The host waits, and knows."""
        self.waits.append(what)
        self.learn(known)

    def learn(self, known: Clock) -> None:
        """The host comes to know what is done."""
        _learn(self.host, known)
        arrived = [late for late in self._late if self.host.get(late[0], 0) >= late[1]]
        self._late = [late for late in self._late if late not in arrived]
        for *_, deliver in arrived:
            deliver()

    @contextmanager
    def turn(self, stream: Stream) -> Iterator[None]:
        """See `torch.cuda.stream`."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def _check(self, needed: Clock, what: str) -> None:
        known = self.current.known
        late = [
            stream for stream, count in needed.items() if stream is not self.current and known.get(stream, 0) < count
        ]
        assert not late, f"a stream {what}"


def _learn(known: Clock, other: Clock) -> None:
    for stream, count in other.items():
        known[stream] = max(known.get(stream, 0), count)
