# SPDX-License-Identifier: Apache-2.0
"""Many conditions per slot: which of them take part in a step, and how their velocities become one.

A *bank* holds the encoded conditions of all slots as rows of preallocated tensors. Each tick, `plan` selects the rows that
are active, as one list for the forward, and the tables by which `composite` gathers the forward's output per slot. The
planning is numpy over all rows at once; nothing here loops over slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.decoder import Decoder, Encoded
from engine_server.diffusion.prepare import PreparedCondition
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.upload import upload

MOST_GATHERED = 4
"""Selections of rows that a bank keeps gathered: the batches of a tick, each a copy of its conditions at worst."""
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def composite(velocities: Tensor, weights: Tensor, fallback: Tensor | None = None) -> Tensor:
    """Weighted mean of K velocities per frame: `[K, R, T, C]`, weights `[K, R, T, 1]` -> `[R, T, C]`.

    Where all weights are 0 the result is `fallback` `[R, T, C]`, or 0 without one. Summed in the order of K, so that further
    velocities of weight 0 change no bit; one of weight 1 comes out as it went in.
    """
    total = weights[0]
    mean = weights[0] * velocities[0]
    for weight, velocity in zip(weights[1:], velocities[1:], strict=True):
        total = total + weight
        mean = mean + weight * velocity
    mean = mean / torch.where(total > 0, total, 1.0)
    return mean if fallback is None else torch.where(total > 0, mean, fallback)


@dataclass(frozen=True)
class Selection:
    """How the positive (or negative) velocities of D slots are gathered from a forward's output rows."""

    output: Ints
    """`[K, D]`: output row of the k-th active condition; where there is none, the slot's first: never another slot's, because
    what is not finite survives a weight of 0."""
    bank: Ints
    """`[K, D]`: its row in the bank, where its weight is."""
    active: Flags
    """`[K, D]`."""


@dataclass(frozen=True)
class ForwardPlan:
    """The rows of one tick's forward: bank row and slot of each, positives first; and how to gather the result."""

    rows: Ints
    slots: Ints
    positive: Selection
    negative: Selection | None


class ConditionBank:
    """Encoded conditions of D slots, one row each to begin with; it grows when slots bring more. One thread."""

    def __init__(self, decoder: Decoder, shape: RingShape, device: torch.device) -> None:
        self._decoder = decoder
        depth = shape.depth
        self._states = torch.zeros(depth, shape.tokens, shape.width, device=device)
        self._mask = torch.zeros(depth, shape.tokens, dtype=torch.bool, device=device)
        self._weight = torch.ones(depth, shape.frames, 1, device=device)
        self._encoded: Encoded | None = None
        self._gathered: dict[bytes, Encoded] = {}
        self._slot = np.full(depth, -1, dtype=np.int64)
        self._order = np.zeros(depth, dtype=np.int64)
        self._negative = np.zeros(depth, dtype=bool)
        self._begin = np.zeros(depth)
        self._end = np.zeros(depth)

    def encode(self, conditions: Sequence[PreparedCondition], adapters: Tensor | None) -> Encoded:
        """What the decoder needs of a slot's conditions; changes nothing. adapters: strengths `[A]` or None."""
        device = self._states.device
        states = upload(torch.stack([c.states for c in conditions]), device)
        mask = upload(torch.stack([c.mask for c in conditions]), device)
        return self._encode(states, mask, None if adapters is None else adapters.expand(len(conditions), -1))

    def fill(self, slot: int, positives: int, conditions: Sequence[PreparedCondition], encoded: Encoded) -> None:
        """Write a slot's conditions, the first `positives` of them positive, and what `encode` gave for them."""
        self.clear(slot)
        missing = len(conditions) - int((self._slot < 0).sum())
        if missing > 0:
            self._grow(missing)
        rows = np.flatnonzero(self._slot < 0)[: len(conditions)]
        index = np.arange(len(conditions))
        self._slot[rows] = slot
        self._negative[rows] = index >= positives
        self._order[rows] = np.where(index >= positives, index - positives, index)
        self._begin[rows] = [c.step_range[0] for c in conditions]
        self._end[rows] = [c.step_range[1] for c in conditions]
        if self._encoded is None:
            self._encoded = tuple(_grown(tensor[:0], len(self._slot)) for tensor in encoded)
        for k, (row, condition) in enumerate(zip(rows, conditions, strict=True)):
            self._states[row], self._mask[row] = condition.states, condition.mask
            self._weight[row] = 1.0 if condition.weight is None else upload(condition.weight, self._weight.device)
            for bank, new in zip(self._encoded, encoded, strict=True):
                bank[row] = new[k]
        self._gathered.clear()

    def clear(self, slot: int) -> None:
        """Forget a slot's conditions."""
        self._slot[self._slot == slot] = -1

    def encoded_again(self, changed: Flags, adapters: Tensor | None) -> Encoded | None:
        """All encoded rows, those of the `changed` slots `[D]` encoded anew; for `replace_encoded`. Changes nothing.

        adapters: strengths `[D, A]` or None.
        """
        if self._encoded is None:
            return None
        rows = upload(np.flatnonzero((self._slot >= 0) & changed[self._slot.clip(0)]), self._states.device)
        if len(rows) == 0:
            return self._encoded
        slots = upload(self._slot, self._states.device)[rows]
        fresh = self._encode(self._states[rows], self._mask[rows], None if adapters is None else adapters[slots])
        return tuple(bank.index_copy(0, rows, new) for bank, new in zip(self._encoded, fresh, strict=True))

    def replace_encoded(self, encoded: Encoded | None) -> None:
        """Take what `encoded_again` gave."""
        self._encoded = encoded
        self._gathered.clear()

    def plan(self, step: Ints, steps: Ints, due: Flags, wants_negative: Flags) -> ForwardPlan:
        """Which conditions the due slots need at their step; all arguments `[D]`, at least one slot due.

        A condition is active when its range holds `step / steps`; a slot without an active one uses its first.
        """
        depth = len(due)
        slot = self._slot.clip(0)
        is_due = (self._slot >= 0) & due[slot] & (~self._negative | wants_negative[slot])
        progress = step[slot] / np.maximum(steps[slot], 1)
        active = is_due & (self._begin <= progress) & (progress < self._end)
        group = slot + depth * self._negative
        is_empty = np.bincount(group[active], minlength=2 * depth) == 0
        active |= is_due & (self._order == 0) & is_empty[group]

        rows = np.flatnonzero(active)
        rows = rows[np.lexsort((self._order[rows], group[rows]))]
        slots = self._slot[rows]
        positives = int((~self._negative[rows]).sum())
        negative = None
        if positives < len(rows):
            negative = _select(rows[positives:], slots[positives:], positives, depth)
        return ForwardPlan(rows, slots, _select(rows[:positives], slots[:positives], 0, depth), negative)

    def encoded_rows(self, rows: Ints) -> Encoded:
        """What the decoder's `encode` gave for these bank rows; not to be written to.

        Rows that had to be gathered are kept until a condition changes: most ticks ask for those of the tick before.
        """
        assert self._encoded is not None
        key = rows.tobytes()
        if key not in self._gathered:
            if len(self._gathered) >= MOST_GATHERED:
                self._gathered.clear()
            self._gathered[key] = tuple(take_rows(tensor, rows) for tensor in self._encoded)
        return self._gathered[key]

    def blend(self, output: Tensor, selection: Selection, shared_weights: Sequence[Tensor] | None = None) -> Tensor:
        """The velocity `[D, T, C]` of every slot from a forward's output `[N, T, C]`.

        A slot's only active condition counts whole, whatever its weight; where the weights of several are all 0, the first
        of them counts. shared_weights take the place of the weights by order, each `[1, 1 or T, 1]`.
        """
        if len(selection.output) == 1:
            return take_rows(output, selection.output[0])
        active = selection.active
        is_alone = active & (active.sum(0) == 1)
        tables = np.stack([selection.output, selection.bank, self._order[selection.bank], active, is_alone])
        outputs, banks, orders, actives, alones = upload(tables, output.device)
        velocities, weights = output[outputs], self._weight[banks]
        for k, weight in enumerate(shared_weights or ()):
            weights = torch.where(orders[..., None, None] == k, weight, weights)
        weights = torch.where(alones[..., None, None] > 0, 1.0, weights)
        weights = torch.where(actives[..., None, None] > 0, weights, 0.0)
        return composite(velocities, weights, fallback=velocities[0])

    def _encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None) -> Encoded:
        # One condition at a time: what it encodes to must not depend on how many stand beside it.
        each = [
            self._decoder.encode(states[k : k + 1], mask[k : k + 1], None if adapters is None else adapters[k : k + 1])
            for k in range(len(states))
        ]
        return tuple(torch.cat(tensors) for tensors in zip(*each, strict=True))

    def _grow(self, extra: int) -> None:
        rows = len(self._slot) + extra
        # All of it or nothing: memory may run out in between.
        states, mask, weight = (_grown(tensor, rows) for tensor in (self._states, self._mask, self._weight))
        encoded = None if self._encoded is None else tuple(_grown(tensor, rows) for tensor in self._encoded)
        self._states, self._mask, self._weight, self._encoded = states, mask, weight, encoded
        self._slot = np.concatenate([self._slot, np.full(extra, -1, dtype=np.int64)])
        self._order = np.pad(self._order, (0, extra))
        self._negative = np.pad(self._negative, (0, extra))
        self._begin, self._end = np.pad(self._begin, (0, extra)), np.pad(self._end, (0, extra))


def take_rows(tensor: Tensor, rows: Ints) -> Tensor:
    """`tensor[rows]`; without a copy when the rows follow one another."""
    return take_places(tensor, places(rows, tensor.device))


def places(rows: Ints, device: torch.device) -> slice | Tensor:
    """What `take_places` takes rows by, of any number of tensors on a device: indices are uploaded once for all of them."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return upload(rows, device)


def take_places(tensor: Tensor, where: slice | Tensor) -> Tensor:
    """The rows of a tensor at `places`."""
    return tensor[where] if isinstance(where, slice) else tensor.index_select(0, where)


def _grown(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])


def _select(rows: Ints, slots: Ints, first_output: int, depth: int) -> Selection:
    """Tables by slot from the active rows, which are sorted by slot and order."""
    count = np.bincount(slots, minlength=depth)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    output = np.zeros((int(count.max()), depth), dtype=np.int64)
    bank, active = output.copy(), np.zeros(output.shape, dtype=bool)
    output[rank, slots] = first_output + np.arange(len(rows))
    bank[rank, slots] = rows
    active[rank, slots] = True
    return Selection(np.where(active, output, output[:1]), bank, active)
