# SPDX-License-Identifier: Apache-2.0
"""One loaded engine whose weights can be written: what it holds now, and how another mix of LoRAs gets into it.

TensorRT says of a refit: it must not meet work of the same engine that is under way, it may write a part and fail, contexts
stay valid. So an engine is refitted while another one plays (`refit_worker.py`), and what was begun and not finished counts as
unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from engine_server.model.lora_mix import BARE, Mix
from shared_protocol.errors import DemonError
from trt_engines.engine_program import EngineProgram, Forms
from trt_engines.refit_weights import Arrays, MergedWeights, UnitShares, in_blocks

TYPES = {torch.float32: "FLOAT", torch.float16: "HALF", torch.bfloat16: "BF16", torch.float8_e4m3fn: "FP8"}
"""What TensorRT's `DataType` calls the types of recipes."""


class RefitEngine:
    """An engine's program with its weights. It belongs to one thread at a time: who plays it, or who writes it.

    rebuild: the command that builds it anew, for messages.
    """

    def __init__(self, program: EngineProgram, weights: MergedWeights, *, rebuild: str) -> None:
        """Raises DemonError `E_ENGINE_FILE` if TensorRT cannot write all of the weights that a LoRA may change."""
        self.program = program
        self.mix: Mix | None = BARE
        """What it computes with; None while that is not known, or of no use."""
        self._weights = weights
        self._rebuild = rebuild
        self._held: dict[str, UnitShares | None] = {}
        """What each unit was made with; absent if it is as built, None if it is not known."""
        self._wait: Callable[[], None] | None = None
        """For what it was last given to play."""
        self._check()

    def retire(self) -> None:
        """It has played its last for now. On the thread that played it; the host waits for nothing."""
        self._wait = self.program.order.mark()
        self.mix = None  # which would keep the factors of LoRAs that are taken out

    def refit(self, mix: Mix, forms: Forms) -> None:
        """Write what differs from a mix, and be ready for the forms that the other engine runs. Waits until it is done.

        Raises DemonError `E_ENGINE_REFIT`, with what TensorRT says, `NoRoomError` and `torch.OutOfMemoryError`: then it must not
        be played until a refit has succeeded.
        """
        if self._wait is not None:
            self._wait()
            self._wait = None
        self.mix = None
        wanted = self._weights.shares(mix)
        changed = [unit for unit in {**self._held, **wanted} if self._held.get(unit, {}) != wanted.get(unit, {})]
        with torch.no_grad(), self.program.order.aside() as stream:
            if changed:
                self._write(mix, wanted, changed, stream)
            self.program.follow(forms)
        self._weights.keep_only(mix)
        self.mix = mix

    def _write(self, mix: Mix, wanted: Mapping[str, UnitShares], changed: list[str], stream: int) -> None:
        refitter = self._refitter()
        for block in in_blocks(changed):
            self._held |= dict.fromkeys(block)
            arrays: Arrays = {}
            for unit in block:
                arrays |= self._weights.of(unit, mix)
            written = self._set(refitter, mix, arrays)
            if not refitter.refit_cuda_engine_async(stream):
                raise self._failed("it takes no weights")
            for name in written:
                refitter.unset_named_weights(name)  # whose memory the next block gets
            for unit in {*block, *filter(None, map(self._weights.unit_of, written))}:
                self._held[unit] = wanted.get(unit, {})

    def _set(self, refitter: Any, mix: Mix, arrays: Arrays) -> Arrays:
        """Hand over arrays, and those that TensorRT wants with them because it has laid them together: all that it was given."""
        places = self.program.library.module.TensorLocation
        given: Arrays = {}
        while arrays:
            for name, array in arrays.items():
                place = places.DEVICE if array.is_cuda else places.HOST
                if not refitter.set_named_weights(name, as_weights(self.program.library.module, array), place):
                    raise self._failed(f"it does not take {name}, {list(array.shape)} of {array.dtype}")
            given |= arrays
            missing = [name for name in refitter.get_missing_weights() if name not in given]
            units = {name: self._weights.unit_of(name) for name in missing}
            if foreign := [name for name, unit in units.items() if unit is None]:
                raise self._failed(f"it wants {foreign[0]!r} with them, which no LoRA changes")
            arrays = {}
            for unit in dict.fromkeys(unit for unit in units.values() if unit is not None):
                self._held[unit] = None
                arrays |= self._weights.of(unit, mix)
        return given

    def _check(self) -> None:
        refitter, module = self._refitter(), self.program.library.module
        known = set(refitter.get_all_weights())
        for name, (count, dtype) in self._weights.counts().items():
            built = refitter.get_weights_prototype(name) if name in known else None
            if built is None or built.size != count or built.dtype != getattr(module.DataType, TYPES[dtype]):
                what = "cannot be written" if built is None else f"is {built.size} of {built.dtype}"
                raise DemonError(
                    "E_ENGINE_FILE",
                    f"{self.program.name}: its note says that LoRAs can be written into it, but {name} {what}, and {count} of "
                    f"{dtype} are wanted. Run: {self._rebuild} --force-rebuild",
                )

    def _refitter(self) -> Any:
        """A new one each time: it keeps every array that it was ever given the address of in its books."""
        library = self.program.library
        library.errors.clear()
        refitter = library.module.Refitter(self.program.engine, library.logger)
        if refitter is None:
            raise self._failed("TensorRT makes no refitter")
        return refitter

    def _failed(self, what: str) -> DemonError:
        said = self.program.library.take_errors()
        return DemonError(
            "E_ENGINE_REFIT",
            f"{self.program.name}: {what}: {said}; what played goes on unchanged. Use the eager backend for LoRAs, and report "
            f"this",
        )


def as_weights(module: Any, array: Tensor) -> Any:
    """TensorRT's `Weights` over a contiguous array, wherever it lies; nothing is copied, and the array must outlive it."""
    assert array.is_contiguous()
    return module.Weights(getattr(module.DataType, TYPES[array.dtype]), array.data_ptr(), math.prod(array.shape))
