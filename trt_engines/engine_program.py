# SPDX-License-Identifier: Apache-2.0
"""A loaded engine that runs: for each form of its inputs a context and buffers that stay where they are.

A caller writes into `Bound.inputs`, calls `Bound.run`, and reads `Bound.outputs`. The host waits for nothing in that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared_protocol.errors import DemonError
from trt_engines.engine_stream import Scratch
from trt_engines.tensorrt_library import TensorRt

MOST_FORMS = 8
"""Forms with a context and buffers; beyond that the one that was asked for longest ago goes."""
Shapes = Mapping[str, tuple[int, ...]]


class NoRoomError(Exception):
    """The GPU's memory has no room for a form; nothing has run, and what was there before still runs."""


class EngineProgram:
    """One thread at a time. name: of the engine, for messages."""

    def __init__(self, engine: Any, library: TensorRt, scratch: Scratch, *, name: str) -> None:
        """Raises DemonError `E_ENGINE_FILE` for an engine whose inputs or outputs are of other types than ours."""
        self._engine = engine
        self._library = library
        self._scratch = scratch
        self._name = name
        self._bound: dict[tuple[tuple[str, tuple[int, ...]], ...], Bound] = {}
        modes, types = library.module.TensorIOMode, library.module.DataType
        known = {types.FLOAT: torch.float32, types.BOOL: torch.bool}
        self.inputs: dict[str, torch.dtype] = {}
        self.outputs: dict[str, torch.dtype] = {}
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            kind = engine.get_tensor_dtype(tensor)
            if kind not in known:
                raise DemonError("E_ENGINE_FILE", f"{name}: {tensor} is {kind}; build it with demon engines build")
            side = self.inputs if engine.get_tensor_mode(tensor) == modes.INPUT else self.outputs
            side[tensor] = known[kind]

    def bind(self, shapes: Shapes) -> Bound:
        """A context and buffers for inputs of these shapes, those of the last time if there are any.

        Raises `NoRoomError`, and DemonError `E_ENGINE_RUN` for shapes that the engine does not take.
        """
        form = tuple(sorted(shapes.items()))
        bound = self._bound.pop(form, None)
        if bound is None:
            try:
                with self._scratch.turn():
                    bound = self._new(shapes)
            except torch.OutOfMemoryError as error:
                raise NoRoomError(str(error)) from error.with_traceback(None)  # whose frames hold what was allocated
            while len(self._bound) >= MOST_FORMS:
                del self._bound[next(iter(self._bound))]
        self._bound[form] = bound
        return bound

    def _new(self, shapes: Shapes) -> Bound:
        self._library.errors.clear()
        context = self._engine.create_execution_context(
            self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise NoRoomError(f"TensorRT makes no context: {self._library.take_errors()}")
        takes = shapes.keys() == self.inputs.keys() and all(
            context.set_input_shape(name, shape) for name, shape in shapes.items()
        )
        if not takes or context.infer_shapes():
            raise self._failed(f"it does not take inputs of {dict(shapes)}")
        need = int(context.update_device_memory_size_for_shapes())
        sides = {name: shapes[name] for name in self.inputs}
        sides |= {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        types = self.inputs | self.outputs
        buffers = {
            name: torch.zeros(shape, dtype=types[name], device=self._scratch.device) for name, shape in sides.items()
        }
        for name, buffer in buffers.items():
            self._scratch.order.keep(buffer)
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise self._failed(f"it takes no address for {name}")
        self._scratch.reserve(need)  # last: it keeps what it has grown to, and a form that has no room must leave none
        return Bound(self, context, buffers)

    def launch(self, context: Any) -> None:
        """Run a context, ordered with what the caller does on its own stream. Raises DemonError `E_ENGINE_RUN`."""
        scratch = self._scratch
        # Each time, because another engine may have made it grow.
        context.set_device_memory(scratch.address, scratch.size)
        with scratch.turn() as stream:
            if not context.execute_async_v3(stream):
                raise self._failed("it does not run")

    def _failed(self, what: str) -> DemonError:
        return DemonError(
            "E_ENGINE_RUN",
            f"{self._name}: {what}: {self._library.take_errors()}; use the eager backend, and report this",
        )


class Bound:
    """A form that can run. What is in `outputs` is overwritten by the next run."""

    def __init__(self, program: EngineProgram, context: Any, buffers: Mapping[str, Tensor]) -> None:
        self._program = program
        self._context = context
        self.inputs = {name: buffers[name] for name in program.inputs}
        self.outputs = {name: buffers[name] for name in program.outputs}

    def run(self) -> None:
        """See `EngineProgram.launch`."""
        self._program.launch(self._context)
