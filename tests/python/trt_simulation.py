# SPDX-License-Identifier: Apache-2.0
"""Engines that run without TensorRT and without a GPU: what a context does with shapes, addresses and scratch memory.

A context here reads its inputs from the addresses that it was given, computes in torch, and writes to the addresses of its
outputs. It refuses what TensorRT refuses: shapes outside the profile, too little scratch. An engine that can be refitted
computes with weights that a `Refitter` writes into it by address; that one refuses what TensorRT's documentation says: unknown
names, other counts and types, a part of what was laid together, and it may write a part and fail. What TensorRT computes, how
fast, and what it lays together is not shown by this.
"""

from __future__ import annotations

import ctypes
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from trt_engines.engine_stream import Scratch
from trt_engines.tensorrt_library import TensorRt

KINDS = {
    torch.float32: "float", torch.bool: "bool", torch.float16: "half", torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8",
}  # fmt: skip
TYPES = {kind: dtype for dtype, kind in KINDS.items()}
PLAYS, BESIDE = 42, 43
"""Handles of streams."""
CPU = torch.device("cpu")


def library():
    return TensorRt(MODULE, "tensorrt_rtx", "1.7.1", None, deque(maxlen=8))


class Weights:
    """As TensorRT's."""

    def __init__(self, dtype, address, size):
        self.dtype, self.address, self.size = dtype, address, size


class Refitter:
    """As TensorRT's documentation says; what it calls undefined fails here."""

    def __init__(self, engine, logger):
        self._engine, self._set = engine, {}

    def get_all_weights(self):
        return list(self._engine.weights)

    def get_weights_prototype(self, name):
        weight = self._engine.weights.get(name)
        return Weights("float", 0, -1) if weight is None else Weights(KINDS[weight.dtype], 0, weight.numel())

    def set_named_weights(self, name, weights, location):
        built = self.get_weights_prototype(name)
        assert location == "host", "what is on the CPU"
        if (built.size, built.dtype) != (weights.size, weights.dtype):
            self._engine.library.errors.append(f"{name} has {built.size} of {built.dtype}")
            return False
        self._set[name] = weights
        return True

    def unset_named_weights(self, name):
        return self._set.pop(name, None) is not None

    def get_missing_weights(self):
        wanted = {name for group in self._engine.groups if group & self._set.keys() for name in group}
        return sorted(wanted - self._set.keys())

    def refit_cuda_engine_async(self, stream):
        engine = self._engine
        assert stream == BESIDE
        assert engine.order.is_aside, "on that stream"
        assert not engine.is_under_way, "TensorRT's behaviour would be undefined"
        if self.get_missing_weights():
            engine.library.errors.append("weights are missing")
            return False
        engine.is_written = True
        engine.before_refit()
        engine.is_written = False
        engine.refits.append(sorted(self._set))
        for name, given in self._set.items():
            if engine.writes_left <= 0:
                engine.library.errors.append("cudaMemcpyAsync failed")
                return False
            engine.writes_left -= 1
            own = engine.weights[name]
            own.copy_(_at(given.address, own.shape, TYPES[given.dtype]))
        return True


MODULE = SimpleNamespace(
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
    DataType=SimpleNamespace(FLOAT="float", BOOL="bool", HALF="half", BF16="bf16", FP8="fp8"),
    TensorLocation=SimpleNamespace(HOST="host", DEVICE="device"),
    Weights=Weights,
    Refitter=Refitter,
)


class HostOrder:
    """Of a stream that runs everything at once; it writes down what happened.

    That an engine's work is done, the host knows only once it has waited for a mark that was made after it.
    """

    def __init__(self):
        self.entries = 0
        self.is_open = False
        self.is_aside = False
        self.kept = []
        self.engines = []
        """Those that can be refitted."""

    def between(self):
        assert not self.is_open, "one engine at a time has the scratch"
        self.is_open = True
        self.entries += 1
        try:
            yield PLAYS
        finally:
            self.is_open = False

    def keep(self, block):
        self.kept.append(block)

    def mark(self):
        done = [engine for engine in self.engines if engine.is_under_way]

        def wait():
            for engine in done:
                engine.is_under_way = False

        return wait

    @contextmanager
    def aside(self):
        assert not self.is_aside, "one thread at a time"
        self.is_aside = True
        try:
            yield BESIDE
        finally:
            self.is_aside = False


class Engine:
    """compute: from inputs by name to outputs by name. axes: as engines are built for. rows_in_memory: the greatest batch that a
    context can be made for."""

    def __init__(self, compute, inputs, outputs, axes, *, library, order, contexts=10**6, rows_in_memory=10**6):
        self.compute, self.axes, self.library, self.order = compute, axes, library, order
        self.types = {**inputs, **{name: torch.float32 for name in outputs}}
        self._inputs = inputs
        self.contexts_left = contexts
        self.rows_in_memory = rows_in_memory
        self.runs = []
        self.is_under_way = self.is_written = False

    @property
    def num_io_tensors(self):
        return len(self.types)

    def get_tensor_name(self, index):
        return list(self.types)[index]

    def get_tensor_dtype(self, name):
        return KINDS.get(self.types[name], "half")

    def get_tensor_mode(self, name):
        return "in" if name in self._inputs else "out"

    def create_execution_context(self, strategy):
        assert strategy == "user"
        if not self.contexts_left:
            self.library.errors.append("cudaMalloc failed")
            return None
        self.contexts_left -= 1
        return Context(self)


class RefittableEngine(Engine):
    """An engine over a torch module of its own, whose named weights can be written.

    groups: names that were laid together, which can only be written together. before_refit: called before each.
    """

    def __init__(self, module, names, inputs, outputs, axes, *, groups=(), **options):
        @torch.no_grad()
        def compute(given):
            return dict(zip(outputs, [module(**given)], strict=True))

        super().__init__(compute, inputs, outputs, axes, **options)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.weights = {name: tensors[name] for name in names}
        self.groups = [set(group) for group in groups]
        self.before_refit = lambda: None
        self.writes_left = 10**6
        self.refits = []
        self.order.engines.append(self)


class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.memory = engine, {}, {}, (0, 0)

    def set_input_shape(self, name, shape):
        spans = self.engine.axes[name]
        self.shapes[name] = shape
        return all(span.least <= shape[axis] <= span.most for axis, span in spans.items())

    def infer_shapes(self):
        return [name for name in self.engine._inputs if name not in self.shapes]

    def update_device_memory_size_for_shapes(self):
        first = next(iter(self.shapes.values()))
        if first[0] > self.engine.rows_in_memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1000 * first[0]

    def get_tensor_shape(self, name):
        zeros = {one: torch.zeros(shape, dtype=self.engine.types[one]) for one, shape in self.shapes.items()}
        return self.engine.compute(zeros)[name].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.types

    def set_device_memory(self, address, size):
        self.memory = address, size

    def execute_async_v3(self, stream):
        assert stream == PLAYS
        assert self.engine.order.is_open
        assert self.memory[0]
        assert self.memory[1] >= self.update_device_memory_size_for_shapes()
        assert not self.engine.is_written, "TensorRT's behaviour would be undefined"
        self.engine.is_under_way = True
        given = {}
        for name, shape in self.shapes.items():
            given[name] = _at(self.addresses[name], shape, self.engine.types[name]).clone()
        self.engine.runs.append({name: tuple(part.shape) for name, part in given.items()})
        for name, result in self.engine.compute(given).items():
            _at(self.addresses[name], result.shape, result.dtype).copy_(result)
        return True


def scratch(order):
    return Scratch(CPU, order)


def _at(address, shape, dtype):
    size = torch.Size(shape).numel()
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)
