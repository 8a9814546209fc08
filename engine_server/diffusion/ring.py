# SPDX-License-Identifier: Apache-2.0
"""The ring: generations in flight, advanced together by one batched decoder forward per tick.

A struct of arrays: every per-slot quantity is a preallocated `[D, ...]` tensor, filling a slot writes a row, and a tick has no
loop over slots. The batch is always D rows, busy or idle, because a row's bits depend on the batch size (and on nothing
else in the batch).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.noise import NoiseSource, Purpose
from engine_server.diffusion.schedule import MAX_STEPS, build_schedule, start_level
from engine_server.diffusion.step import StepRows, advance, initial_state

SOLVERS = ("ode", "sde")


class Decoder(Protocol):
    """The model behind a ring: velocity of a batch. The result of a row must depend on that row only."""

    def __call__(self, x: Tensor, t: Tensor, states: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """x `[D, T, C]`, t `[D]`, states `[D, L, E]`, mask `[D, L]` bool, context `[D, T, 2C]` -> `[D, T, C]`."""
        ...


@dataclass(frozen=True)
class RingShape:
    """Sizes that a ring is built for: D slots, T frames, C channels, L condition tokens of width E."""

    depth: int
    frames: int
    channels: int
    tokens: int
    width: int


@dataclass(frozen=True)
class SlotRequest:
    """One generation. Curves may be scalars or curves of T frames; tensors are on the CPU.

    request_id names the request in its `Completion`. source: `[T, C]` or None; context: `[T, 2C]`; states: `[L, E]`; mask: `[L]`.
    Defaults are neutral. `compat_denoise` selects the reference's staircase schedule start.
    """

    request_id: Hashable
    noise: NoiseSource
    context: Tensor
    states: Tensor
    mask: Tensor
    source: Tensor | None = None
    denoise: CurveLike = 1.0
    velocity_scale: CurveLike = 1.0
    source_blend: CurveLike = 1.0
    ode_noise: CurveLike = 0.0
    initial_noise: CurveLike = 1.0
    steps: int = 8
    shift: float = 3.0
    solver: str = "ode"
    compat_denoise: bool = False


@dataclass(frozen=True)
class Completion:
    """A finished generation: `latent` is `[T, C]` float32, owned by the receiver."""

    request_id: Hashable
    latent: Tensor


@dataclass(frozen=True)
class SlotProgress:
    """How far a slot has come: `step` of `steps` done."""

    request_id: Hashable
    step: int
    steps: int


class Ring:
    """Slots of one window length and condition length. All methods belong to one thread."""

    def __init__(self, decoder: Decoder, shape: RingShape, *, device: torch.device | str = "cpu") -> None:
        self.shape = shape
        self._decoder = decoder
        self._device = torch.device(device)
        D, T, C = shape.depth, shape.frames, shape.channels

        def rows(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(D, *sizes, dtype=dtype, device=self._device)

        self._x = rows(T, C)
        self._context = rows(T, 2 * C)
        self._states = rows(shape.tokens, shape.width)
        self._mask = rows(shape.tokens, dtype=torch.bool)
        self._mask[:, 0] = True  # attention over no key at all would be NaN in idle rows
        self._rows = StepRows(
            source=rows(T, C),
            initial_noise=rows(T, C),
            start=rows(T, 1),
            velocity_scale=rows(T, 1),
            source_blend=rows(T, 1),
            ode_noise=rows(T, 1),
            is_sde=rows(1, 1, dtype=torch.bool),
        )
        self._step_noise = rows(0, T, C)
        self._levels = rows(MAX_STEPS + 1)
        self._requests: list[SlotRequest | None] = [None] * D
        self._step = np.zeros(D, dtype=np.int64)
        self._steps = np.zeros(D, dtype=np.int64)

    @property
    def busy(self) -> int:
        """Slots in flight."""
        return sum(request is not None for request in self._requests)

    def has_free_slot(self) -> bool:
        """Whether `admit` may be called."""
        return self.busy < self.shape.depth

    def progress(self) -> list[SlotProgress]:
        """Every slot in flight, in slot order."""
        return [
            SlotProgress(request.request_id, int(self._step[row]), int(self._steps[row]))
            for row, request in enumerate(self._requests)
            if request is not None
        ]

    def admit(self, request: SlotRequest) -> None:
        """Fill a free slot. Everything is checked before anything is written.

        Raises ValueError for a request that does not fit (the message names the field) and RuntimeError if no slot is free.
        """
        if not self.has_free_slot():
            raise RuntimeError("no slot is free; ask has_free_slot() first")
        slot = _Slot.from_request(request, self.shape)
        row = self._requests.index(None)
        if slot.step_noise is not None:
            self._reserve_step_noise(slot.step_noise.shape[0])
        rows = self._rows
        for target, value in (
            (rows.source, slot.source),
            (rows.initial_noise, slot.initial_noise),
            (rows.start, slot.start),
            (rows.velocity_scale, slot.velocity_scale),
            (rows.source_blend, slot.source_blend),
            (rows.ode_noise, slot.ode_noise),
            (rows.is_sde, torch.tensor(request.solver == "sde")),
            (self._context, request.context),
            (self._states, request.states),
            (self._mask, request.mask),
        ):
            target[row] = value.to(self._device)
        self._step_noise[row] = 0.0
        if slot.step_noise is not None:
            self._step_noise[row, : slot.step_noise.shape[0]] = slot.step_noise.to(self._device)
        self._levels[row] = 0.0
        self._levels[row, : len(slot.levels)] = slot.levels.to(self._device)
        first = slice(row, row + 1)
        self._x[row] = initial_state(
            _take(rows, first), self._levels[first, :1, None], slot.initial_share.to(self._device)
        )[0]
        self._requests[row] = request
        self._step[row] = 0
        self._steps[row] = slot.steps

    def cancel(self, request_id: Hashable) -> bool:
        """Free the slot of a request; False if it is not in flight."""
        for row, request in enumerate(self._requests):
            if request is not None and request.request_id == request_id:
                self._requests[row] = None
                return True
        return False

    @torch.no_grad()
    def tick(self) -> list[Completion]:
        """Advance every slot by one step and hand out the finished ones, in slot order.

        Slots without a step to make (denoise 0) finish at once and cost no forward. An exception leaves the ring as it was.
        """
        occupied = np.array([request is not None for request in self._requests])
        due = occupied & (self._step < self._steps)
        if due.any():
            x = self._advance(due)
            self._x = x
            self._step += due
        return [self._release(int(row)) for row in np.flatnonzero(occupied & (self._step >= self._steps))]

    def _advance(self, due: np.ndarray) -> Tensor:
        slots = torch.arange(self.shape.depth, device=self._device)
        # The last level is always 0: an idle row moves from 0 to 0.
        now = torch.from_numpy(np.where(due, self._step, MAX_STEPS)).to(self._device)
        nxt = torch.from_numpy(np.where(due, self._step + 1, MAX_STEPS)).to(self._device)
        t_now, t_next = self._levels[slots, now], self._levels[slots, nxt]
        v = self._decoder(self._x, t_now, self._states, self._mask, self._context)
        planned = self._step_noise.shape[1]
        noise = self._step_noise[slots, now.clamp(max=planned - 1)] if planned else torch.zeros_like(self._x)
        moved = advance(self._x, v, t_now[:, None, None], t_next[:, None, None], self._rows, noise)
        is_due = torch.from_numpy(due).to(self._device)[:, None, None]
        return torch.where(is_due, moved, self._x)

    def _release(self, row: int) -> Completion:
        request = self._requests[row]
        assert request is not None
        self._requests[row] = None
        return Completion(request.request_id, self._x[row].clone())

    def _reserve_step_noise(self, steps: int) -> None:
        """Room for per-step noise grows to the longest schedule that ever needed it: most never do."""
        extra = steps - self._step_noise.shape[1]
        if extra > 0:
            self._step_noise = torch.nn.functional.pad(self._step_noise, (0, 0, 0, 0, 0, extra))


@dataclass(frozen=True)
class _Slot:
    """A request, checked and turned into what the ring stores. Curves are `[T, 1]`."""

    source: Tensor
    initial_noise: Tensor
    initial_share: Tensor
    start: Tensor
    velocity_scale: Tensor
    source_blend: Tensor
    ode_noise: Tensor
    step_noise: Tensor | None
    levels: Tensor
    steps: int

    @classmethod
    def from_request(cls, request: SlotRequest, shape: RingShape) -> _Slot:
        T, C = shape.frames, shape.channels
        _check_shape("context", request.context, (T, 2 * C))
        _check_shape("states", request.states, (shape.tokens, shape.width))
        _check_shape("mask", request.mask, (shape.tokens,))
        if request.source is not None:
            _check_shape("source", request.source, (T, C))
        if request.solver not in SOLVERS:
            raise ValueError(f"solver is {request.solver!r}; one of {', '.join(SOLVERS)} is expected")

        def curve(value: CurveLike, name: str, lo: float | None = None, hi: float | None = None) -> Tensor:
            return canonical_curve(value, T, name=name, lo=lo, hi=hi)[0].expand(T, 1)

        denoise = curve(request.denoise, "denoise", 0.0)
        blend = curve(request.source_blend, "source_blend", 0.0, 1.0)
        ode_noise = curve(request.ode_noise, "ode_noise")
        if request.source is None and bool((denoise < 1).any() or (blend < 1).any()):
            raise ValueError("denoise and source_blend below 1 need a source")

        levels = build_schedule(
            request.steps, request.shift, float(denoise.max()), compat_denoise=request.compat_denoise
        )
        start = start_level(denoise.numpy(), request.steps, request.shift, compat_denoise=request.compat_denoise)
        steps = len(levels) - 1 if levels[0] > 0 else 0
        needs_noise = steps > 0 and (request.solver == "sde" or bool((ode_noise != 0).any()))
        purpose = Purpose.SDE if request.solver == "sde" else Purpose.ODE
        return cls(
            source=torch.zeros(T, C) if request.source is None else request.source,
            initial_noise=request.noise.draw(Purpose.INITIAL, 0, T, C),
            initial_share=curve(request.initial_noise, "initial_noise", 0.0)[None],
            start=torch.from_numpy(start.astype(np.float32)),
            velocity_scale=curve(request.velocity_scale, "velocity_scale"),
            source_blend=blend,
            ode_noise=ode_noise,
            step_noise=torch.stack([request.noise.draw(purpose, i, T, C) for i in range(steps)])
            if needs_noise
            else None,
            levels=torch.from_numpy(levels.astype(np.float32)),
            steps=steps,
        )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {shape} is expected")


def _take(rows: StepRows, index: slice) -> StepRows:
    return StepRows(**{name: getattr(rows, name)[index] for name in StepRows.__dataclass_fields__})
