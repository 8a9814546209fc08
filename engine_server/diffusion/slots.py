# SPDX-License-Identifier: Apache-2.0
"""What the ring keeps of its slots beside the step's rows: latent state, bookkeeping on the host, drawn noise, LoRA strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.compositing import Flags, Ints
from engine_server.diffusion.guidance import GuidanceMode
from engine_server.diffusion.noise import Purpose
from engine_server.diffusion.prepare import PreparedSlot
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.schedule import MAX_STEPS
from engine_server.diffusion.upload import upload


class RingState(NamedTuple):
    """What a tick replaces, as a whole or not at all; each `[D, T, C]`."""

    x: Tensor
    memory: Tensor
    """Guidance direction of earlier steps."""
    kept_negative: Tensor
    """Negative velocity of the last negative forward."""


class Step(NamedTuple):
    """What half a tick has found out."""

    due: Flags
    """Slots that make a step."""
    version: int
    """Of the shared controls."""
    state: RingState
    rows: int
    """That forwards were needed for, padding not counted."""
    finished: Mapping[int, Tensor]
    """Latents `[T, C]` of the slots that end with it, by row: copies, so that taking the step needs no memory."""


@dataclass
class HostRows:
    """Per slot, on the host: where it stands in its schedule, and how its negative velocity is made."""

    levels: NDArray[np.float32]
    """`[D, MAX_STEPS + 1]`, 0 after the schedule's end."""
    mask_strength: NDArray[np.float32]
    """`[D, MAX_STEPS]`."""
    version: Ints
    """`[D, MAX_STEPS]`: the shared controls that each step read."""
    step: Ints
    steps: Ints
    admitted: Ints
    is_full: Flags
    is_initialize: Flags
    is_self: Flags

    @classmethod
    def empty(cls, depth: int) -> HostRows:
        """Rows without a slot."""
        return cls(
            levels=np.zeros((depth, MAX_STEPS + 1), dtype=np.float32),
            mask_strength=np.ones((depth, MAX_STEPS), dtype=np.float32),
            version=np.zeros((depth, MAX_STEPS), dtype=np.int64),
            step=np.zeros(depth, dtype=np.int64),
            steps=np.zeros(depth, dtype=np.int64),
            admitted=np.zeros(depth, dtype=np.int64),
            is_full=np.zeros(depth, dtype=bool),
            is_initialize=np.zeros(depth, dtype=bool),
            is_self=np.zeros(depth, dtype=bool),
        )

    def write(self, row: int, slot: PreparedSlot, tick: int) -> None:
        """A slot at its first step."""
        self.levels[row] = 0.0
        self.levels[row, : len(slot.levels)] = slot.levels
        self.mask_strength[row] = 1.0
        self.mask_strength[row, : len(slot.mask_strength)] = slot.mask_strength
        self.step[row], self.steps[row], self.admitted[row] = 0, slot.steps, tick
        self.set_guidance(row, slot.guidance_mode)

    def set_guidance(self, row: int, mode: GuidanceMode) -> None:
        """How the slot's negative velocity is made from now on."""
        self.is_full[row] = mode is GuidanceMode.FULL
        self.is_initialize[row] = mode is GuidanceMode.INITIALIZE
        self.is_self[row] = mode is GuidanceMode.SELF

    def wants_negative(self, due: Flags) -> Flags:
        """Which slots need a negative forward in this step."""
        wanted: Flags = due & (self.is_full | (self.is_initialize & (self.step == 0)))
        return wanted

    def times(self, due: Flags) -> NDArray[np.float32]:
        """The table `[D, 6]` that `StepTimes` is made from. Idle rows go from level 0 to level 0."""
        slots = np.arange(len(due))
        step = np.where(due, self.step, MAX_STEPS - 1)
        table = np.zeros((len(due), 6), dtype=np.float32)
        table[:, 0] = np.where(due, self.levels[slots, step], 0.0)
        table[:, 1] = np.where(due, self.levels[slots, step + 1], 0.0)
        table[:, 2] = self.step / np.maximum(self.steps - 1, 1)
        table[:, 3] = self.step >= self.steps // 2
        table[:, 4] = self.mask_strength[slots, step]
        table[:, 5] = due & (self.step == self.steps - 1)
        return table

    def resized(self, depth: int) -> HostRows:
        """The first `depth` rows, or all and empty ones after them."""
        more = HostRows.empty(max(0, depth - len(self.step)))
        joined = {f.name: np.concatenate([getattr(self, f.name), getattr(more, f.name)])[:depth] for f in fields(self)}
        return HostRows(**joined)


class StepNoise:
    """Fresh noise of every slot's steps, drawn on the host when it turns out that a slot needs it."""

    def __init__(self, shape: RingShape, device: torch.device) -> None:
        self._shape = shape
        self._values = torch.zeros(shape.depth, 0, shape.frames, shape.channels, device=device)
        self._purpose: list[Purpose | None] = [None] * shape.depth

    def clear(self, row: int) -> None:
        """The row has another slot now."""
        self._purpose[row] = None

    def settle(self, row: int, slot: PreparedSlot, purpose: Purpose | None) -> None:
        """Have the noise of all of a slot's steps for a purpose at hand; None needs none."""
        if purpose is None or purpose is self._purpose[row] or slot.steps == 0:
            return
        noise = slot.step_noise(purpose, self._shape)
        extra = len(noise) - self._values.shape[1]
        if extra > 0:  # most slots never need any: room grows with the longest schedule that did
            self._values = torch.nn.functional.pad(self._values, (0, 0, 0, 0, 0, extra))
        self._values[row, : len(noise)] = upload(noise, self._values.device)
        self._purpose[row] = purpose

    def at(self, step: Ints) -> Tensor | None:
        """Each slot's noise of its step, `[D, T, C]`, meaningless where none was asked for; None if nobody did."""
        planned = self._values.shape[1]
        if planned == 0:
            return None
        device = self._values.device
        return self._values[torch.arange(len(step), device=device), upload(np.minimum(step, planned - 1), device)]

    def resize(self, depth: int) -> None:
        """Room for another number of slots."""
        self._values = resized(self._values, depth)
        self._purpose = (self._purpose + [None] * depth)[:depth]


class AdapterRows:
    """The LoRA strengths that every slot's conditions are encoded with, and that its rows of a forward take."""

    def __init__(self, depth: int, device: torch.device) -> None:
        self._device = device
        self._strengths: list[Tensor | None] = [None] * depth
        self.table: Tensor | None = None
        """`[D, A]` on the device, None if no slot has any."""

    def replaced(self, row: int, strengths: Tensor | None) -> list[Tensor | None]:
        """All slots' strengths with another's in a row."""
        return [strengths if k == row else own for k, own in enumerate(self._strengths)]

    def changed(self, wanted: Sequence[Tensor | None]) -> Flags:
        """`[D]`: which slots have other strengths than they should."""
        return np.array([not _same(own, new) for own, new in zip(self._strengths, wanted, strict=True)], dtype=bool)

    def stack(self, strengths: Sequence[Tensor | None]) -> Tensor | None:
        """`[D, A]` of strengths `[<= A]`, 0 where a slot has none; None if no slot has any."""
        size = max(0 if one is None else len(one) for one in strengths)
        if size == 0:
            return None
        table = torch.zeros(len(strengths), size)
        for row, one in enumerate(strengths):
            if one is not None:
                table[row, : len(one)] = one
        return upload(table, self._device)

    def take(self, strengths: Sequence[Tensor | None]) -> None:
        """These are the strengths now."""
        self.table = self.stack(strengths)  # first: if it finds no memory, the old ones hold
        self._strengths = list(strengths)

    def resize(self, depth: int) -> None:
        """Room for another number of slots."""
        self.take((self._strengths + [None] * depth)[:depth])


def resized(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` rows, or all and zeros after them; always a copy."""
    kept = tensor[:rows]
    return torch.cat([kept, kept.new_zeros(rows - len(kept), *kept.shape[1:])])


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether strengths mean the same: an absent one is 0."""
    if a is None or b is None:
        only = a if b is None else b
        return only is None or not bool(only.any())
    size = min(len(a), len(b))
    return torch.equal(a[:size], b[:size]) and not bool(a[size:].any()) and not bool(b[size:].any())
