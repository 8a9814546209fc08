# SPDX-License-Identifier: Apache-2.0
"""The ring: generations in flight, advanced together by one batched decoder forward per tick.

A struct of arrays: every per-slot quantity is a preallocated `[D, ...]` tensor, filling a slot writes a row, and a tick has no
loop over slots. Forwards always have the same number of rows, busy or idle, because a row's bits depend on the batch size (and
on nothing else in the batch): a slot's result is the same alone and among others, at any depth.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine_server.diffusion.compositing import ConditionBank, Flags, ForwardPlan, places, take_places
from engine_server.diffusion.controls import Controls, Snapshot
from engine_server.diffusion.dcw import DcwPlan, plan_dcw
from engine_server.diffusion.decoder import Decoder, Encoded
from engine_server.diffusion.guidance import GuidanceRows, guide
from engine_server.diffusion.prepare import PreparedSlot, prepare, revise
from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.rows import RingShape, StepRows, StepTimes
from engine_server.diffusion.slots import AdapterRows, HostRows, RingState, Step, StepNoise, resized
from engine_server.diffusion.step import advance, hold_masked
from engine_server.diffusion.threads import one_thread
from engine_server.diffusion.upload import upload

DEFAULT_BATCH = 4
"""Rows of a forward. The smallest batch at which a row's bits were seen not to depend on its neighbours (float32 on CPUs)."""


@dataclass(frozen=True, eq=False)
class Completion:
    """A finished generation: `latent` is `[T, C]` float32, owned by the receiver."""

    request_id: Hashable
    latent: Tensor
    request: SlotRequest
    admitted_tick: int
    finished_tick: int
    control_versions: tuple[int, ...]
    """Version of the shared controls that each step read."""


@dataclass(frozen=True)
class SlotProgress:
    """How far a slot has come: `step` of `steps` done."""

    request_id: Hashable
    step: int
    steps: int


class _Batch(NamedTuple):
    """Arguments of a decoder's forward, B rows each."""

    x: Tensor
    t: Tensor
    context: Tensor
    condition: Encoded
    adapters: Tensor | None


class Ring:
    """Slots of one window length and condition length. All methods belong to one thread; `controls` to any."""

    def __init__(
        self,
        decoder: Decoder,
        shape: RingShape,
        *,
        batch: int = DEFAULT_BATCH,
        controls: Controls | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.controls = controls or Controls(device=device)
        self.ticks = 0
        self.forward_rows = 0
        """Rows that forwards were needed for so far, padding not counted."""
        self._decoder = decoder
        self._batch = batch
        self._device = torch.device(device)
        self._bank = ConditionBank(decoder, shape, self._device)
        self._rows = StepRows.neutral(shape.depth, shape, self._device)
        self._host = HostRows.empty(shape.depth)
        self._noise = StepNoise(shape, self._device)
        self._adapters = AdapterRows(shape.depth, self._device)
        self._slots: list[PreparedSlot | None] = [None] * shape.depth
        latent = (shape.depth, shape.frames, shape.channels)
        self._state = RingState(*(torch.zeros(latent, device=self._device) for _ in range(3)))
        self._context = torch.zeros(*latent[:2], 2 * shape.channels, device=self._device)
        self._fitted: Snapshot | None = None
        self._settled_version: int | None = None
        self._shared_adapters: Tensor | None = None
        self._features: frozenset[str] = frozenset()
        self._dcw: DcwPlan | None = None

    @property
    def busy(self) -> int:
        """Slots in flight."""
        return sum(slot is not None for slot in self._slots)

    @property
    def capacity(self) -> int:
        """Slots that the ring has room for: its depth, or more while it narrows."""
        return len(self._slots)

    def has_free_slot(self) -> bool:
        """Whether `admit` may be called."""
        return self.busy < self.shape.depth

    def progress(self) -> list[SlotProgress]:
        """Every slot in flight, in slot order."""
        return [
            SlotProgress(slot.request.request_id, int(self._host.step[row]), slot.steps)
            for row, slot in enumerate(self._slots)
            if slot is not None
        ]

    def state(self, request_id: Hashable) -> Tensor:
        """A copy of a generation's noisy latent as it stands, `[T, C]`. Raises KeyError if it is not in flight."""
        for row, slot in enumerate(self._slots):
            if slot is not None and slot.request.request_id == request_id:
                return self._state.x[row].clone()
        raise KeyError(request_id)

    @torch.no_grad()
    def admit(self, request: SlotRequest | PreparedSlot) -> None:
        """Fill a free slot. Everything is checked before anything is written.

        Raises ValueError for a request that does not fit (the message names the field) and RuntimeError if no slot is free.
        """
        if not self.has_free_slot():
            raise RuntimeError("no slot is free; ask has_free_slot() first")
        slot = prepare(request, self.shape, self._device) if isinstance(request, SlotRequest) else request
        row = self._slots.index(None)
        conditions = [*slot.conditions, *slot.negatives]
        strengths = self._snapshot().strengths_of(slot)
        adapters = self._adapters.replaced(row, strengths)
        encoded = self._bank.encode(conditions, None if strengths is None else upload(strengths, self._device))

        self._bank.fill(row, len(slot.conditions), conditions, encoded)
        self._adapters.take(adapters)
        self._noise.clear(row)
        self._rows.write(row, slot.rows)
        self._host.write(row, slot, self.ticks)
        self._context[row] = slot.context
        self._state.x[row] = slot.initial_state
        self._state.memory[row] = 0.0
        self._slots[row] = slot
        self._settled_version = None

    def revise(self, request_id: Hashable, changes: Mapping[str, Any]) -> bool:
        """Change step-time values of one generation from its next step on; False if it is not in flight.

        No other slot's row is touched. Raises ValueError as `prepare.revise` does, and nothing has changed then.
        """
        for row, slot in enumerate(self._slots):
            if slot is not None and slot.request.request_id == request_id:
                revised = revise(slot, changes, self.shape, self._device)
                self._slots[row] = revised
                self._rows.write(row, revised.rows)
                self._host.set_guidance(row, revised.guidance_mode)
                self._settled_version = None
                return True
        return False

    def cancel(self, request_id: Hashable) -> bool:
        """Free the slot of a request; False if it is not in flight."""
        for row, slot in enumerate(self._slots):
            if slot is not None and slot.request.request_id == request_id:
                self._free(row)
                self._narrow()
                return True
        return False

    def set_depth(self, depth: int) -> None:
        """More slots at once, or fewer: surplus generations finish, and only then does the ring narrow."""
        if depth < 1:
            raise ValueError(f"depth is {depth}; at least 1 is needed")
        self.shape = replace(self.shape, depth=depth)
        if depth > self.capacity:
            self._resize(depth)
        self._narrow()

    @torch.no_grad()
    def tick(self) -> list[Completion]:
        """Advance every slot by one step and hand out the finished ones, in slot order.

        Slots without a step to make (denoise 0) finish at once and cost no forward. An exception leaves the ring as it was.
        """
        return self.take(self.compute())

    @torch.no_grad()
    def compute(self) -> Step:
        """The first half of a tick, which may fail and changes nothing that can be seen: the step of every slot."""
        host = self._host
        due = self._occupied() & (host.step < host.steps)
        snapshot = self._snapshot()
        if not due.any():
            return self._step(due, snapshot, self._state, 0)
        self._settle(snapshot)
        plan = self._bank.plan(host.step, host.steps, due, host.wants_negative(due))
        return self._step(due, snapshot, self._moved(due, snapshot, plan), len(plan.rows))

    def take(self, step: Step) -> list[Completion]:
        """The second half: take what `compute` just gave, and hand out the finished slots."""
        host = self._host
        self._state = step.state
        host.version[np.flatnonzero(step.due), host.step[step.due]] = step.version
        host.step += step.due
        self.ticks += 1
        self.forward_rows += step.rows
        finished = [self._release(row, latent) for row, latent in step.finished.items()]
        self._narrow()
        return finished

    def weights_changed(self) -> None:
        """The decoder's weights are others now: encode the conditions in flight again."""
        everyone = np.ones(self.capacity, dtype=bool)
        self._bank.replace_encoded(self._bank.encoded_again(everyone, self._adapters.table))

    def _step(self, due: Flags, snapshot: Snapshot, state: RingState, rows: int) -> Step:
        ends = self._occupied() & (self._host.step + due >= self._host.steps)
        latents = {int(row): state.x[row].clone() for row in np.flatnonzero(ends)}
        return Step(due, snapshot.version, state, rows, latents)

    def _occupied(self) -> Flags:
        return np.array([slot is not None for slot in self._slots])

    def _snapshot(self) -> Snapshot:
        """The shared values as of now, for this ring's length."""
        latest = self.controls.snapshot
        if self._fitted is None or self._fitted.version != latest.version:
            self._fitted = latest.resampled(self.shape.frames)
        return self._fitted

    def _moved(self, due: Flags, snapshot: Snapshot, plan: ForwardPlan) -> RingState:
        """The state after a step of the due slots."""
        features, small = self._features, self._state.x.numel()
        rows = snapshot.apply(self._rows)
        with one_thread(small):
            at = StepTimes.from_table(self._host.times(due), self._device)
            x = hold_masked(self._state.x, rows, at) if "mask" in features else self._state.x
            inputs = self._inputs(x * rows.channel_gain if "gain" in features else x, at.now, plan)
        output = self._forward(inputs)
        with one_thread(small):
            v, memory, kept = self._guided(output, rows, due, snapshot, plan)
            moved = advance(x, v, rows, at, self._noise.at(self._host.step), self._dcw, features)
            if not due.all():
                moved = torch.where(self._flags(due), moved, self._state.x)
        return RingState(moved, memory, kept)

    def _inputs(self, x: Tensor, now: Tensor, plan: ForwardPlan) -> list[_Batch]:
        """The decoder's arguments for the planned rows, in batches of one fixed size; the last is filled with a repeated row."""
        padding = -len(plan.rows) % self._batch
        rows, slots = (np.concatenate([each, np.repeat(each[:1], padding)]) for each in (plan.rows, plan.slots))
        inputs: list[_Batch] = []
        for first in range(0, len(rows), self._batch):
            where = places(slots[first : first + self._batch], self._device)
            inputs.append(
                _Batch(
                    take_places(x, where),
                    take_places(now, where)[:, 0, 0],
                    take_places(self._context, where),
                    self._bank.encoded_rows(rows[first : first + self._batch]),
                    None if self._adapters.table is None else take_places(self._adapters.table, where),
                )
            )
        return inputs

    def _forward(self, inputs: list[_Batch]) -> Tensor:
        """The decoder's velocity of all batches, `[N, T, C]`.

        Contiguous, however the decoder lays it out: slots are views of it or gathered from it, and the order of a sum along
        time, which shows in its last bits, follows from the layout.
        """
        if len(inputs) == 1:
            return self._decoder(*inputs[0]).contiguous()
        # Copied at once: a decoder may hand out the same buffer every time.
        return torch.cat([self._decoder(*batch).clone() for batch in inputs]).contiguous()

    def _guided(
        self, output: Tensor, rows: StepRows, due: Flags, snapshot: Snapshot, plan: ForwardPlan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every slot's velocity from the forward's output, and the guidance memory and negative velocity that it keeps."""
        host, memory, kept = self._host, self._state.memory, self._state.kept_negative
        v = self._bank.blend(output, plan.positive, snapshot.temporal_weights)
        if plan.negative is not None:
            kept = torch.where(self._flags(host.wants_negative(due)), self._bank.blend(output, plan.negative), kept)
        if "guidance" in self._features:
            settings = GuidanceRows(rows.guidance, rows.apg_momentum, rows.cfg_rescale, rows.apg_threshold)
            v_negative = torch.where(self._flags(host.is_self), rows.initial_noise, kept)
            guided, updated = guide(v, v_negative, memory, settings)
            v = torch.where(rows.has_guidance, guided, v)
            memory = torch.where(self._flags(due) & rows.has_guidance, updated, memory)
        return v, memory, kept

    def _flags(self, flags: Flags) -> Tensor:
        return upload(flags, self._device)[:, None, None]

    def _settle(self, snapshot: Snapshot) -> None:
        """What follows from which slots are filled and what is shared; in most ticks neither has changed."""
        if self._settled_version == snapshot.version:
            return
        features = snapshot.features().union(*(slot.features for slot in self._slots if slot is not None))
        corrections = [snapshot.dcw_of(slot) for slot in self._slots]
        if all(one is corrections[0] for one in corrections):
            corrections = corrections[:1]
        dcw = plan_dcw(corrections, self.shape.frames, device=self._device)
        for row, slot in enumerate(self._slots):
            if slot is not None:
                self._noise.settle(row, slot, snapshot.noise_of(slot))
        wanted = [None if slot is None else snapshot.strengths_of(slot) for slot in self._slots]
        changed = self._adapters.changed(wanted)
        if snapshot.adapters is not self._shared_adapters:
            # Set anew: even equal strengths may be those of other adapters, in the columns of some that were removed.
            changed |= np.array([one is not None and one is snapshot.adapters for one in wanted], dtype=bool)
        if changed.any():
            self._bank.replace_encoded(self._bank.encoded_again(changed, self._adapters.stack(wanted)))
            self._adapters.take(wanted)
        self._features, self._dcw, self._settled_version = features, dcw, snapshot.version
        self._shared_adapters = snapshot.adapters

    def _release(self, row: int, latent: Tensor) -> Completion:
        slot = self._slots[row]
        assert slot is not None
        completion = Completion(
            request_id=slot.request.request_id,
            latent=latent,
            request=slot.request,
            admitted_tick=int(self._host.admitted[row]),
            finished_tick=self.ticks - 1,
            control_versions=tuple(int(v) for v in self._host.version[row, : slot.steps]),
        )
        self._free(row)
        return completion

    def _free(self, row: int) -> None:
        self._slots[row] = None
        self._bank.clear(row)
        self._settled_version = None

    def _narrow(self) -> None:
        depth = self.shape.depth
        if self.capacity > depth and all(slot is None for slot in self._slots[depth:]):
            self._resize(depth)

    def _resize(self, depth: int) -> None:
        self._rows = self._rows.resized(depth, self.shape)
        self._host = self._host.resized(depth)
        self._noise.resize(depth)
        self._adapters.resize(depth)
        self._state = RingState(*(resized(tensor, depth) for tensor in self._state))
        self._context = resized(self._context, depth)
        self._slots = (self._slots + [None] * depth)[:depth]
        self._settled_version = None
