# SPDX-License-Identifier: Apache-2.0
"""Requests for a ring: one with every default, and one that uses every feature of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine_server.diffusion.controls import Controls
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.noise import PositionNoise
from engine_server.diffusion.request import ConditionEntry, LatentMask, SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH, Completion, Ring
from engine_server.diffusion.rows import RingShape

Maker = Callable[[int, RingShape], SlotRequest]


def plain(number: int, shape: RingShape, **more: Any) -> SlotRequest:
    """A cover of a source, all else by default."""
    T, C = shape.frames, shape.channels
    given: dict[str, Any] = {
        "request_id": number,
        "noise": PositionNoise(number, 0),
        "context": _draw(number, T, 2 * C),
        "conditions": [_condition(number, shape)],
        "source": _draw(number + 1, T, C),
    }
    return SlotRequest(**(given | more))


def everything(number: int, shape: RingShape, **more: Any) -> SlotRequest:
    """All features at once: every second one with the SDE solver, the others with noise along the ODE."""
    T, C = shape.frames, shape.channels
    ramp = torch.linspace(0.5, 1.0, T)
    given: dict[str, Any] = {
        "conditions": [_condition(number, shape, weight=ramp), _condition(number + 1, shape, weight=1.0 - ramp)],
        "negatives": [_condition(number + 2, shape)],
        "target": _draw(number + 2, T, C),
        "mask": LatentMask(mask=ramp, original=_draw(number + 3, T, C)),
        "denoise": ramp,
        "solver": "sde" if number % 2 else "ode",
        "velocity_scale": ramp,
        "source_blend": ramp,
        "ode_noise": 0.1,
        "x0_target": ramp,
        "guidance": 3.0,
        "cfg_rescale": 0.5,
        "channel_gain": 0.9 + 0.2 * torch.rand(1, C, generator=torch.Generator().manual_seed(number)),
    }
    return plain(number, shape, **(given | more))


class BusyRing:
    """A ring that is always full: every finished slot is filled again by `refill`."""

    def __init__(
        self,
        decoder: Decoder,
        shape: RingShape,
        make: Maker = plain,
        *,
        steps: int = 8,
        batch: int = DEFAULT_BATCH,
        dcw: DcwSettings | None = None,
    ) -> None:
        self._ring = Ring(decoder, shape, batch=batch, controls=Controls(dcw=dcw))
        self._shape, self._steps = shape, steps
        self._numbers = itertools.count()
        self._requests = [make(number, shape) for number in range(2 * shape.depth)]

    def stagger(self) -> None:
        """Fill the slots one after the other, so that they do not all finish in the same tick."""
        for _ in range(self._shape.depth):
            self._admit()
            for _ in range(self._steps // self._shape.depth):
                self.tick()

    def refill(self) -> None:
        """Fill every free slot."""
        while self._ring.has_free_slot():
            self._admit()

    def tick(self) -> list[Completion]:
        """One tick of whatever is in flight."""
        return self._ring.tick()

    def _admit(self) -> None:
        number = next(self._numbers)
        request = self._requests[number % len(self._requests)]
        self._ring.admit(replace(request, request_id=number, steps=self._steps))


def _condition(seed: int, shape: RingShape, **more: Any) -> ConditionEntry:
    return ConditionEntry(_draw(seed, shape.tokens, shape.width), torch.ones(shape.tokens, dtype=torch.bool), **more)


def _draw(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))
