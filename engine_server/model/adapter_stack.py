# SPDX-License-Identifier: Apache-2.0
"""All adapters of a bank side by side, in buffers that stay where they are: a compiled forward never learns that they changed.

A branch beside every Linear has one pair of factors for all adapters, `down` `[R, in]` and `up` `[out, R]`, in which each adapter
owns some of the R columns and the rest is zero. A row's strengths then are `[R]`, one per column. R grows by whole steps;
adapters that come and go are written into the buffers in place, which neither a compiled program nor a captured graph notices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine_server.model.dit_block import AdapterSet, Branch, StackedAdapters

COLUMNS_STEP = 64
"""Columns are added by so many: one large adapter, or a few small ones."""
NOT_IN_A_FORWARD = ("cross_attn.to_k", "cross_attn.to_v", "condition_embedder", "time_embed_r.")
"""Parts of names of Linears that run once per condition, or beside the forward."""


class AdapterStack:
    """See the module. Belongs to the decoder's thread."""

    def __init__(self, transformer: Any) -> None:
        self.columns = 0
        """R. Never shrinks."""
        self.is_empty = True
        """Whether it holds no adapter, so that strengths change nothing."""
        self._names = {
            name: module
            for name, module in transformer.named_modules()
            if _is_linear(module) and not any(part in name for part in NOT_IN_A_FORWARD)
        }
        self._like = transformer.proj_in_conv.weight
        """What flows between Linears has its type, whatever they compute in."""
        self._pairs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._places = torch.zeros(0, dtype=torch.long)
        self._places_in_use = 1
        self._version: int | None = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def reserve(self, columns: int) -> None:
        """Have room for so many columns at least, in whole steps. What is there is written again by the next `update`.

        Raises torch.OutOfMemoryError, and nothing has changed then.
        """
        wanted = -(-columns // COLUMNS_STEP) * COLUMNS_STEP
        if wanted <= self.columns:
            return
        pairs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for module in self._names.values():
            weight: Any = module.weight
            like = self._like.new_zeros
            pairs[module] = like(wanted, weight.shape[1]), like(weight.shape[0], wanted)
        self._places = torch.zeros(wanted, dtype=torch.long, device=self._like.device)
        self._pairs.update(pairs)  # the same dictionary, by which recordings find that what they read has moved
        self.columns, self._version = wanted, None

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, adapters: AdapterSet) -> None:
        """Hold these adapters from now on; nothing happens if they are those of before."""
        if adapters.version == self._version:
            return
        named = {name: adapters.branches(name) for name in self._names}
        ranks: dict[int, int] = {}
        for branches in named.values():
            for place, (down, _) in branches:
                ranks[place] = max(ranks.get(place, 0), len(down))
        self.reserve(sum(ranks.values()))
        spans = _spans(ranks)
        for name, module in self._names.items():
            if module in self._pairs:
                _write(self._pairs[module], named[name], spans)
        self._places.zero_()
        for place, span in spans.items():
            self._places[span] = place
        self._places_in_use = max(ranks, default=0) + 1
        self._version, self.is_empty = adapters.version, not ranks

    def rows(self, strengths: Tensor) -> StackedAdapters:
        """The stack for a forward of rows with strengths `[B, A]`. An adapter that is younger than they are is silent."""
        known = F.pad(strengths, (0, max(0, self._places_in_use - strengths.shape[1])))
        return StackedAdapters(self._pairs, known[:, self._places])


def _is_linear(module: nn.Module) -> bool:
    """Whether it has a matrix of weights, of any type: norms have vectors, convolutions three axes."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _write(pair: tuple[Tensor, Tensor], branches: Sequence[Branch], spans: Mapping[int, slice]) -> None:
    """The factors of one Linear into its buffers."""
    downs, ups = pair
    downs.zero_()
    ups.zero_()
    for place, (down, up) in branches:
        own = slice(spans[place].start, spans[place].start + len(down))
        downs[own], ups[:, own] = down, up


def _spans(ranks: Mapping[int, int]) -> dict[int, slice]:
    """The columns of every place, one after another."""
    spans, first = {}, 0
    for place, rank in sorted(ranks.items()):
        spans[place] = slice(first, first + rank)
        first += rank
    return spans
