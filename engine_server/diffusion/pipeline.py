# SPDX-License-Identifier: Apache-2.0
"""A stream of generations: requests in, completions out, evenly spaced, and controls that act while they fly.

Around the ring: admission, pacing, changes of depth and of length. Nothing in flight is thrown away unless asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial

import torch

from engine_server.diffusion.controls import Controls, SharedValue
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.intake import Admission, Intake, Pacer
from engine_server.diffusion.prepare import PreparedSlot, prepare
from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH, Completion, Ring
from engine_server.diffusion.rows import RingShape

WARM_UPS = ("even", "burst")


@dataclass(frozen=True)
class PipelineStats:
    """A stream at one moment."""

    ticks: int
    active_slots: int
    waiting: int
    depth: int
    is_warmed_up: bool
    """Whether the last tick advanced as many slots as the depth allows."""
    last_tick_ms: float
    decoder_rows: int
    """Rows that forwards were needed for so far."""


class StreamPipeline:
    """See the module. Setters and `submit`: any thread; `tick` and what calls it, depth and discards: one thread.

    shape: the first requests' sizes and the depth. warm: `even` spaces the first admissions like all others, `burst` fills the
    slots as fast as requests come. dcw: the shared wavelet correction, None for off. batch: rows of a forward (see `Ring`).
    """

    def __init__(
        self,
        decoder: Decoder,
        shape: RingShape,
        *,
        admission: str = Admission.LIVE,
        queue_limit: int | None = None,
        warm: str = "even",
        dcw: DcwSettings | None = None,
        batch: int = DEFAULT_BATCH,
        device: torch.device | str = "cpu",
    ) -> None:
        if admission not in list(Admission):
            raise ValueError(f"admission is {admission!r}; one of {', '.join(Admission)} is expected")
        if warm not in WARM_UPS:
            raise ValueError(f"warm is {warm!r}; one of {', '.join(WARM_UPS)} is expected")
        self.shape = shape
        self.controls = Controls(dcw=dcw, device=device)
        self._device = torch.device(device)
        self._new_ring = partial(Ring, decoder, batch=batch, controls=self.controls, device=device)
        self._ring = self._new_ring(_checked_depth(shape))
        self._leaving: list[Ring] = []
        """Rings of other lengths, whose generations finish."""
        self._intake = Intake(Admission(admission), queue_limit)
        self._pacer = Pacer()
        self._bursts = warm == "burst"
        self._steps = 1
        self._is_admitted = False
        """Whether the admissions of the coming tick are made: it failed after them."""
        self._undelivered: list[Completion] = []
        self._ticks = 0
        self._was_full = False
        self._rows_of_left = 0
        self._last_tick_ms = 0.0

    @property
    def busy(self) -> int:
        """Slots in flight."""
        return sum(ring.busy for ring in self._rings())

    def submit(self, request: SlotRequest) -> list[Hashable]:
        """Hand in a request; the ids of those that it supersedes.

        A request of another length begins a new ring when it starts; what flies finishes in the old one. Raises ValueError
        naming the field that does not fit, QueueFullError when a bounded queue is full.
        """
        return self._intake.put(prepare(request, self._shape_for(request), self._device))

    def tick(self) -> list[Completion]:
        """Start at most one waiting request, advance every slot by a step, hand out what is finished.

        If it fails no slot has moved, nothing is lost, and the next tick is this one again: the request that it started, if
        any, keeps its slot, and nothing else starts in its place.
        """
        began = time.perf_counter()
        if not self._is_admitted:
            self._admit()
            self._is_admitted = True
        rings = self._rings()
        self._was_full = self.busy >= self.shape.depth
        steps = [ring.compute() for ring in rings]
        finished = self._undelivered
        for ring, step in zip(rings, steps, strict=True):
            finished = finished + ring.take(step)
        self._undelivered, self._is_admitted = [], False
        self._leave(self._leaving, only_idle=True)
        self._ticks += 1
        self._last_tick_ms = 1000 * (time.perf_counter() - began)
        return finished

    def run_until(self, request_id: Hashable) -> list[Completion]:
        """Tick until a request is finished, or superseded or cancelled by another thread: all completions up to then.

        Raises KeyError if it neither waits nor flies. If a tick fails, what was finished comes with the next one.
        """
        if not (self._knows(request_id) or any(done.request_id == request_id for done in self._undelivered)):
            raise KeyError(request_id)
        return self._tick_while(lambda: self._knows(request_id))

    def drain(self) -> list[Completion]:
        """Tick until nothing waits or flies: all completions, in order. If a tick fails, they come with the next one."""
        return self._tick_while(lambda: bool(self.busy or len(self._intake)))

    def cancel(self, request_id: Hashable) -> bool:
        """Forget a request, waiting or in flight; False if there is none of that id."""
        return self._intake.cancel(request_id) or any(ring.cancel(request_id) for ring in self._rings())

    def set_depth(self, depth: int, *, discard: bool = False) -> list[Hashable]:
        """Another number of slots, paced anew.

        Fewer: the surplus finishes first; with `discard` the youngest are dropped instead, and their ids returned.
        """
        self.shape = _checked_depth(replace(self.shape, depth=depth))
        dropped: list[Hashable] = []
        if discard:
            youngest = sorted(self._ring.progress(), key=lambda slot: slot.step)
            dropped = [slot.request_id for slot in youngest[: max(0, self._ring.busy - depth)]]
        for request_id in dropped:
            self._ring.cancel(request_id)
        self._ring.set_depth(depth)
        return dropped

    def discard_leaving(self) -> list[Hashable]:
        """After a change of length: drop what still flies at an earlier one; the ids."""
        dropped = [slot.request_id for ring in self._leaving for slot in ring.progress()]
        self._leave(self._leaving)
        return dropped

    def set_shared_curve(self, name: str, value: SharedValue | None) -> None:
        """Share a step-time value with all slots from the next tick on; None gives each slot its own back.

        Raises ValueError for an unknown name (listing the valid ones) or a value that does not fit.
        """
        self.controls.set(name, value, self.shape)

    def set_channel_gain_tensor(self, gain: torch.Tensor | None) -> None:
        """Gain per latent channel of what the decoder hears, `[1, 1 or T, C]` or `[1 or T, C]`; None is 1."""
        self.controls.set("channel_gain", gain, self.shape)

    def set_dcw(self, **changes: object) -> None:
        """Change fields of the shared wavelet correction (see `DcwSettings`); those not named, or `UNSET`, stay."""
        self.controls.update_dcw(changes, self.shape)

    def set_adapters(self, strengths: torch.Tensor | None) -> None:
        """Strength of each of the decoder's adapters (LoRAs) in all slots, `[A]`."""
        self.controls.set("adapters", strengths, self.shape)

    def weights_changed(self) -> None:
        """The decoder's weights are others now."""
        for ring in self._rings():
            ring.weights_changed()

    def stats(self) -> PipelineStats:
        """How the stream stands."""
        return PipelineStats(
            ticks=self._ticks,
            active_slots=self.busy,
            waiting=len(self._intake),
            depth=self.shape.depth,
            is_warmed_up=self._was_full,
            last_tick_ms=self._last_tick_ms,
            decoder_rows=self._rows_of_left + sum(ring.forward_rows for ring in self._rings()),
        )

    def close(self) -> None:
        """Drop everything, waiting and in flight. May be called again."""
        self._intake.clear()
        self._leave([*self._leaving, self._ring])
        self._undelivered, self._is_admitted, self._was_full = [], False, False
        self._ring = self._begin_ring(self.shape)

    def _tick_while(self, goes_on: Callable[[], bool]) -> list[Completion]:
        finished, self._undelivered = self._undelivered, []
        try:
            while goes_on():
                finished += self.tick()
        except BaseException:
            self._undelivered = finished
            raise
        return finished

    def _begin_ring(self, shape: RingShape) -> Ring:
        ring = self._new_ring(shape)
        ring.ticks = self._ticks
        return ring

    def _leave(self, rings: list[Ring], *, only_idle: bool = False) -> None:
        """Let rings go, their rows counted."""
        gone = [ring for ring in rings if not (only_idle and ring.busy)]
        self._rows_of_left += sum(ring.forward_rows for ring in gone)
        self._leaving = [ring for ring in self._leaving if ring not in gone]

    def _rings(self) -> list[Ring]:
        return [*self._leaving, self._ring]

    def _admit(self) -> None:
        depth = self.shape.depth
        if (waiting := self._intake.peek()) is not None:
            self._steps = waiting.steps
        credit = self._pacer.credit
        self._pacer.tick(depth, self._steps)
        try:
            if self._bursts:
                while self.busy < depth and self._start():
                    pass
                self._bursts = self.busy < depth
            elif self._pacer.can_admit() and self.busy < depth and self._start():
                self._pacer.admit()
        except BaseException:
            self._pacer.credit = credit
            raise

    def _start(self) -> bool:
        """Give the next waiting request a slot; False if none waits."""
        return self._intake.start(lambda slot: self._ring_for(slot).admit(slot))

    def _ring_for(self, slot: PreparedSlot) -> Ring:
        """The ring of a request's length; it becomes the current one."""
        shape = replace(self._shape_for(slot.request), depth=self.shape.depth)
        if shape != self._ring.shape:
            same = [ring for ring in self._leaving if replace(ring.shape, depth=shape.depth) == shape]
            following = same[0] if same else self._begin_ring(shape)
            following.set_depth(shape.depth)
            self._leaving = [ring for ring in self._rings() if ring is not following]
            self._leave(self._leaving, only_idle=True)
            self._ring, self.shape = following, shape
        return self._ring

    def _shape_for(self, request: SlotRequest) -> RingShape:
        """Sizes that a request asks for; its fields are held to them in `prepare`."""
        if request.context.ndim != 2 or not request.conditions or request.conditions[0].states.ndim != 2:
            return self.shape
        tokens = request.conditions[0].states.shape[0]
        return replace(self.shape, frames=request.context.shape[0], tokens=tokens)

    def _knows(self, request_id: Hashable) -> bool:
        flying = (slot.request_id for ring in self._rings() for slot in ring.progress())
        return self._intake.holds(request_id) or request_id in flying


def _checked_depth(shape: RingShape) -> RingShape:
    if shape.depth < 1:
        raise ValueError(f"depth is {shape.depth}; at least 1 is needed")
    return shape
