# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters beside the decoder's weights: which there are, and what a layer must add for each batch row.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021): an adapter changes a Linear's `W` to
`W + strength * up @ down`. Weights are never changed here. A forward adds `strength * (x @ down.T) @ up.T` to the layer's
output, with a strength for each batch row, so that rows of one batch hear different adapters, and a strength is a number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""`(down [r, in], up [out, r])` of one Linear, with alpha / rank already multiplied into `up`."""
Branches = Sequence[tuple[int, Pair]]
"""`(place, pair)` of every adapter of one Linear; `place` is the adapter's column among the strengths."""
Share = tuple[tuple[int, float], ...]
"""`(number, strength)` of every adapter that one Linear hears, oldest first; strengths of 0 are left out."""
Shapes = Mapping[str, tuple[int, int]]
"""`(out, in)` of every Linear that adapters can change, by its module path in diffusers' transformer."""


def linear_shapes(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """`(out, in)` of every Linear in a model, by module path."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@dataclass(frozen=True)
class _Adapter:
    place: int
    number: int
    """Which one it is of all that the bank ever had; places are used again, numbers are not."""
    exact: Mapping[str, Pair]
    """As it was added: what weights are composed of."""
    active: Mapping[str, Pair]
    """On the bank's device, in its dtype: what a forward reads."""


class AdapterSnapshot:
    """What a bank held at one moment; never changes. A forward takes one and asks only that, whatever is registered meanwhile."""

    def __init__(self, adapters: tuple[_Adapter, ...], size: int, version: int) -> None:
        self.size = size
        """A: columns of strengths, those of removed adapters included."""
        self.version = version
        self._adapters = adapters
        self._branches: dict[str, tuple[tuple[int, Pair], ...]] = {}
        for adapter in adapters:
            for name, pair in adapter.active.items():
                self._branches[name] = (*self._branches.get(name, ()), (adapter.place, pair))

    def branches(self, name: str) -> Branches:
        """What to add to the Linear called `name`, oldest adapter first; empty for most names."""
        return self._branches.get(name, ())

    def strengths(self, by_place: Mapping[int, float]) -> Tensor:
        """Strengths `[A]` float32 of one row, on the host: 0 where `by_place` is silent.

        Raises ValueError for a place without an adapter.
        """
        taken = {adapter.place for adapter in self._adapters}
        if unknown := sorted(set(by_place) - taken):
            raise ValueError(f"by_place: there is no adapter at {unknown}; places taken: {sorted(taken)}")
        return torch.tensor([float(by_place.get(place, 0.0)) for place in range(self.size)])

    def compose(self, name: str, weight: Tensor, strengths: Tensor) -> Tensor:
        """`weight + sum(strength * up @ down)`: the weight `[out, in]` that one row's forward amounts to, as a new tensor.

        Summed in float32 in the order of `branches` and cast once, to the weight's dtype. `strengths` is `[A]`. For
        backends that cannot branch. Raises ValueError for strengths of another length.
        """
        if strengths.shape != (self.size,):
            raise ValueError(f"strengths: expected [{self.size}], got {list(strengths.shape)}")
        values = strengths.tolist()
        total = weight.to(torch.float32, copy=True)
        for adapter in self._adapters:
            if name in adapter.exact and values[adapter.place] != 0.0:
                active = adapter.active[name]
                # Where it lost nothing, it need not be uploaded again.
                pair = active if active[0].dtype == torch.float32 else adapter.exact[name]
                down, up = (factor.to(total) for factor in pair)
                total.addmm_(up, down, alpha=values[adapter.place])
        return total.to(weight.dtype)

    def shares(self, strengths: Tensor) -> dict[str, Share]:
        """What each Linear is changed by at these strengths `[A]`; Linears that nothing changes are left out.

        Where two shares are equal, `compose` gives the same bits. Raises ValueError for strengths of another length.
        """
        if strengths.shape != (self.size,):
            raise ValueError(f"strengths: expected [{self.size}], got {list(strengths.shape)}")
        values, shares = strengths.tolist(), dict[str, Share]()
        for adapter in self._adapters:
            if values[adapter.place] != 0.0:
                for name in adapter.exact:
                    shares[name] = (*shares.get(name, ()), (adapter.number, values[adapter.place]))
        return shares


class AdapterBank:
    """The adapters of one decoder. Any thread may call anything; reading takes no lock and never waits for a change.

    A place is a column of strengths. A new adapter gets the lowest free one, so a place can be used again after its adapter
    was removed: strengths belong to the `version` they were made for. The order of branches is the order of `add`, whatever
    the places are, so the adapter that took over an old column comes last.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._home = (torch.device("cpu"), torch.float32)
        self._added = 0
        self._snapshot = AdapterSnapshot((), 0, 0)

    @property
    def snapshot(self) -> AdapterSnapshot:
        """The bank as it is now, for one forward."""
        return self._snapshot

    @property
    def size(self) -> int:
        """A: columns of strengths, those of removed adapters included. Never shrinks."""
        return self._snapshot.size

    @property
    def version(self) -> int:
        """Grows with every change of what `branches` returns."""
        return self._snapshot.version

    def branches(self, name: str) -> Branches:
        """See `AdapterSnapshot.branches`."""
        return self._snapshot.branches(name)

    def strengths(self, by_place: Mapping[int, float]) -> Tensor:
        """See `AdapterSnapshot.strengths`."""
        return self._snapshot.strengths(by_place)

    def compose(self, name: str, weight: Tensor, strengths: Tensor) -> Tensor:
        """See `AdapterSnapshot.compose`."""
        return self._snapshot.compose(name, weight, strengths)

    def add(self, factors: Mapping[str, Pair]) -> int:
        """Add an adapter, by the names of its Linears, and return its place. The tensors are kept, not copied.

        Raises ValueError for factors that are not `[r, in]` and `[out, r]`.
        """
        for name, (down, up) in factors.items():
            if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
                raise ValueError(
                    f"factors[{name!r}]: {list(down.shape)} and {list(up.shape)} are not [r, in] and [out, r]"
                )
        exact = dict(factors)
        home = self._home
        active = _cast(exact, *home)  # before the lock: copying to a device takes time
        with self._changing:
            if home != self._home:
                active = _cast(exact, *self._home)
            held = self._snapshot
            places = {adapter.place for adapter in held._adapters}
            place = next(place for place in range(held.size + 1) if place not in places)
            self._added += 1
            self._publish((*held._adapters, _Adapter(place, self._added, exact, active)), max(held.size, place + 1))
        return place

    def remove(self, place: int) -> None:
        """Forget the adapter at `place`. Forwards under way finish with it. Raises ValueError if there is none."""
        with self._changing:
            held = self._snapshot
            rest = tuple(adapter for adapter in held._adapters if adapter.place != place)
            if len(rest) == len(held._adapters):
                raise ValueError(f"place: there is no adapter at {place}")
            self._publish(rest, held.size)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Hand out branches on `device` in `dtype` from now on, of adapters present and to come."""
        with self._changing:
            self._home = (torch.device(device), dtype)
            held = self._snapshot
            moved = (replace(adapter, active=_cast(adapter.exact, *self._home)) for adapter in held._adapters)
            self._publish(moved, held.size)

    def _publish(self, adapters: Iterable[_Adapter], size: int) -> None:
        self._snapshot = AdapterSnapshot(tuple(adapters), size, self._snapshot.version + 1)


def _cast(factors: Mapping[str, Pair], device: torch.device, dtype: torch.dtype) -> dict[str, Pair]:
    return {name: (down.to(device, dtype), up.to(device, dtype)) for name, (down, up) in factors.items()}
