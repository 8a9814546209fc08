# SPDX-License-Identifier: Apache-2.0
"""Engines that run without TensorRT and without a GPU: what a context does with shapes, addresses and scratch memory.

A context here reads its inputs from the addresses that it was given, computes in torch, and writes to the addresses of its
outputs. It refuses what TensorRT refuses: shapes outside the profile, too little scratch. What TensorRT computes, and how fast,
is not shown by this.
"""

from __future__ import annotations

import ctypes
from collections import deque
from types import SimpleNamespace

import torch

from trt_engines.engine_stream import Scratch
from trt_engines.tensorrt_library import TensorRt

MODULE = SimpleNamespace(
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
    DataType=SimpleNamespace(FLOAT="float", BOOL="bool", HALF="half"),
)
KINDS = {torch.float32: "float", torch.bool: "bool"}
CPU = torch.device("cpu")


def library():
    return TensorRt(MODULE, "tensorrt_rtx", "1.7.1", None, deque(maxlen=8))


class HostOrder:
    """Of a stream that runs everything at once; it writes down what happened."""

    def __init__(self):
        self.entries = 0
        self.is_open = False
        self.kept = []

    def between(self):
        assert not self.is_open, "one engine at a time has the scratch"
        self.is_open = True
        self.entries += 1
        try:
            yield 42
        finally:
            self.is_open = False

    def keep(self, block):
        self.kept.append(block)


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
        assert stream == 42
        assert self.engine.order.is_open
        assert self.memory[0]
        assert self.memory[1] >= self.update_device_memory_size_for_shapes()
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
