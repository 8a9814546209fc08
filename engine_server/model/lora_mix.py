# SPDX-License-Identifier: Apache-2.0
"""LoRAs at their strengths, as one thing: what the weights of a decoder that cannot branch beside its Linears are made of.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4: the weight that a layer amounts to is
`W + sum(strength * up @ down)`, alpha / rank being part of `up`. It is composed of the bare `W` each time, so that nothing drifts
however often a strength moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine_server.model.lora import AdapterSnapshot, Share

LEAST_CHANGE = 0.02
"""A strength that moves by less is not worth new weights while playing. From or to 0 every change is."""
ROUNDING = 1e-6
"""Of strengths, which are float32: 0.52 is 0.02 more than 0.5."""


@dataclass(frozen=True, eq=False)
class Mix:
    """What a bank held at one moment, with a strength for each of its columns, `[A]` float32 on the host. Never changes."""

    snapshot: AdapterSnapshot
    strengths: Tensor

    @cached_property
    def shares(self) -> Mapping[str, Share]:
        """By Linear: see `AdapterSnapshot.shares`."""
        return self.snapshot.shares(self.strengths)

    @cached_property
    def heard(self) -> Mapping[int, float]:
        """Strengths by the number of the adapter, of those that change something."""
        return dict(pair for share in self.shares.values() for pair in share)

    def weight(self, name: str, base: Tensor) -> Tensor:
        """The merged weight `[out, in]` of a Linear, float32, where `base` is; `base` is not changed."""
        return self.snapshot.compose(name, base.float(), self.strengths)

    def is_same(self, other: Mix | None) -> bool:
        """Whether both give the same weights, to the bit. None is of weights that are not known."""
        return other is not None and self.shares == other.shares

    def is_near(self, other: Mix | None) -> bool:
        """Whether nobody would hear the difference; see `LEAST_CHANGE`."""
        if other is None or self.heard.keys() != other.heard.keys():
            return False
        return all(abs(self.heard[key] - other.heard[key]) < LEAST_CHANGE - ROUNDING for key in self.heard)


BARE = Mix(AdapterSnapshot((), 0, 0), torch.zeros(0))
"""No adapter at all: the checkpoint's own weights."""
