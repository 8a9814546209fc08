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
from trt_engines.engine_stream import Order, Scratch
from trt_engines.tensorrt_library import TensorRt

MOST_FORMS = 8
"""Forms with a context and buffers; beyond that the one that was asked for longest ago goes."""
Shapes = Mapping[str, tuple[int, ...]]
Form = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes of all inputs, sorted by name."""
Forms = Mapping[Form, Mapping[str, Tensor]]
"""Forms that can run, with the buffers of their inputs and outputs."""


class NoRoomError(Exception):
    """The GPU's memory has no room for a form; nothing has run, and what was there before still runs."""


class EngineProgram:
    """One thread at a time, but for `forms`. name: of the engine, for messages."""

    def __init__(self, engine: Any, library: TensorRt, scratch: Scratch, *, name: str) -> None:
        """Raises DemonError `E_ENGINE_FILE` for an engine whose inputs or outputs are of other types than ours."""
        self.engine = engine
        self.library = library
        self.name = name
        self.forms: Forms = {}
        """What can run now; replaced, never changed, so that any thread may read it."""
        self._scratch = scratch
        self._bound: dict[Form, Bound] = {}
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

    @property
    def order(self) -> Order:
        """When it runs."""
        return self._scratch.order

    def bind(self, shapes: Shapes) -> Bound:
        """A context and buffers for inputs of these shapes, those of the last time if there are any.

        Raises `NoRoomError`, and DemonError `E_ENGINE_RUN` for shapes that the engine does not take.
        """
        form = tuple(sorted(shapes.items()))
        bound = self._bound.pop(form, None)
        if bound is not None:
            self._bound[form] = bound
            return bound
        try:
            with self._scratch.turn():
                context = self._context(shapes)
                bound = self._on(context, self._buffers(context, shapes))
        except torch.OutOfMemoryError as error:
            raise NoRoomError(str(error)) from error.with_traceback(None)  # whose frames hold what was allocated
        while len(self._bound) >= MOST_FORMS:
            del self._bound[next(iter(self._bound))]
        self._bound[form] = bound
        self._publish()
        return bound

    def follow(self, forms: Forms) -> None:
        """Be able to run these forms, on these buffers, and no others: those of another program of the same engine, of which one
        runs at a time. Raises `NoRoomError`, `torch.OutOfMemoryError`, and DemonError `E_ENGINE_RUN`."""
        held = {form: bound for form, bound in self._bound.items() if bound.buffers is forms.get(form)}
        for form, buffers in forms.items():
            if form not in held:
                held[form] = self._on(self._context(dict(form)), buffers)
        self._bound = {form: held[form] for form in forms}
        self._publish()

    def follows(self, forms: Forms) -> bool:
        """Whether all of these can run here, on the same buffers."""
        return all(self.forms.get(form) is buffers for form, buffers in forms.items())

    def _publish(self) -> None:
        self.forms = {form: bound.buffers for form, bound in self._bound.items()}

    def _context(self, shapes: Shapes) -> Any:
        self.library.errors.clear()
        context = self.engine.create_execution_context(
            self.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise NoRoomError(f"TensorRT makes no context: {self.library.take_errors()}")
        takes = shapes.keys() == self.inputs.keys() and all(
            context.set_input_shape(name, shape) for name, shape in shapes.items()
        )
        if not takes or context.infer_shapes():
            raise self._failed(f"it does not take inputs of {dict(shapes)}")
        return context

    def _buffers(self, context: Any, shapes: Shapes) -> dict[str, Tensor]:
        sides = {name: shapes[name] for name in self.inputs}
        sides |= {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        types = self.inputs | self.outputs
        buffers = {
            name: torch.zeros(shape, dtype=types[name], device=self._scratch.device) for name, shape in sides.items()
        }
        for buffer in buffers.values():
            self._scratch.order.keep(buffer)
        return buffers

    def _on(self, context: Any, buffers: Mapping[str, Tensor]) -> Bound:
        for name, buffer in buffers.items():
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise self._failed(f"it takes no address for {name}")
        # Last: it keeps what it has grown to, and a form that has no room must leave none.
        self._scratch.reserve(int(context.update_device_memory_size_for_shapes()))
        return Bound(self, context, buffers)

    def launch(self, context: Any) -> None:
        """Run a context, ordered with what the caller does on its own stream. Raises DemonError `E_ENGINE_RUN`."""
        block = self._scratch.block  # each time, because another engine may have made it grow
        context.set_device_memory(block.data_ptr(), block.nbytes)
        with self._scratch.turn() as stream:
            if not context.execute_async_v3(stream):
                raise self._failed("it does not run")

    def _failed(self, what: str) -> DemonError:
        return DemonError(
            "E_ENGINE_RUN",
            f"{self.name}: {what}: {self.library.take_errors()}; use the eager backend, and report this",
        )


class Bound:
    """A form that can run. What is in `outputs` is overwritten by the next run."""

    def __init__(self, program: EngineProgram, context: Any, buffers: Mapping[str, Tensor]) -> None:
        self.buffers = buffers
        self._program = program
        self._context = context
        self.inputs = {name: buffers[name] for name in program.inputs}
        self.outputs = {name: buffers[name] for name in program.outputs}

    def run(self) -> None:
        """See `EngineProgram.launch`."""
        self._program.launch(self._context)
