# SPDX-License-Identifier: Apache-2.0
"""Engines built from ONNX files; ahead of time, without the GPU that they are for, where the library can.

TensorRT-RTX compiles for a kind of GPU by the name of its compute capability, and finishes the kernels on the GPU itself when the
engine is loaded. Such an engine's weights are fixed: one that can be refitted has to be built where a GPU is. TensorRT builds
for the GPU that it runs on, and for no other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared_protocol.errors import DemonError
from trt_engines.onnx_files import Limits, size_limits
from trt_engines.parse_network import ParsedNetwork, parse_network
from trt_engines.profiles import Axes
from trt_engines.targets import capabilities, check_capabilities
from trt_engines.tensorrt_library import TensorRt
from trt_engines.unfinished import unfinished

NEEDS_GPU = ". An engine whose weights can be written (--refit) builds only on a machine with the GPU that it is for"


def build_engine(
    onnx: Path, engine: Path, axes: Axes, *, compute_capabilities: Sequence[str], refittable: Iterable[str] = ()
) -> int:
    """Build an engine of an ONNX file, write it whole or not at all, and return its size in bytes. Takes seconds to minutes.

    axes: a span for each dynamic axis, see `profiles.py`. compute_capabilities: names such as "SM89", one at least; a library
    that builds only for the GPU that it runs on leaves them aside (see `targets.py`). refittable: names of the weights that can
    be written into the engine, for which TensorRT-RTX 1.7 wants a GPU here; of all others it may make whatever is fastest.

    Raises DemonError: `E_BACKEND` without TensorRT, `E_ONNX` as `parse_network`, `E_FIELD` for axes that are
    not the network's or beyond what it was exported for, and for unknown compute capabilities, `E_ENGINE_BUILD` with what
    TensorRT says, `E_OUTPUT`.
    """
    parsed = parse_network(onnx)
    builder = parsed.builder
    config = builder.create_builder_config()
    _aim(config, parsed.library, compute_capabilities)
    can_be_written = _mark(parsed, config, refittable)
    profile = builder.create_optimization_profile()
    _check_limits(axes, size_limits(onnx))
    for name, shapes in _shapes(parsed, axes).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    parsed.library.errors.clear()
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise DemonError(
            "E_ENGINE_BUILD",
            f"{onnx} does not build: {parsed.library.take_errors()}. Build with another --precision or a shorter --duration, or "
            f"use the eager backend{NEEDS_GPU if can_be_written else ''}",
        )
    return _write(engine, memoryview(plan))


def _aim(config: Any, library: TensorRt, names: Sequence[str]) -> None:
    known = capabilities(library)
    if not known:
        return
    check_capabilities(library, names)
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(known[name], index)


def _mark(parsed: ParsedNetwork, config: Any, names: Iterable[str]) -> bool:
    """Whether any weight can be written."""
    can_be_written = False
    for name in names:
        can_be_written = True
        if not parsed.network.mark_weights_refittable(name):
            raise DemonError("E_ENGINE_BUILD", f"TensorRT does not let {name} be written into an engine")
    if can_be_written:
        config.set_flag(parsed.library.module.BuilderFlag.REFIT_INDIVIDUAL)
    return can_be_written


def _check_limits(axes: Axes, limits: Limits) -> None:
    """TensorRT would only warn, and build an engine that fails at its greatest size."""
    for name, most in limits.items():
        for axis, span in axes.get(name, {}).items():
            if axis in most and span.most > most[axis]:
                raise DemonError(
                    "E_FIELD", f"axis {axis} of {name} is {span}; the model was exported for {most[axis]} at most"
                )


def _shapes(parsed: ParsedNetwork, axes: Axes) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Least, best and greatest shape of every input."""
    shapes = {}
    for name, dimensions in parsed.inputs().items():
        spans = axes.get(name, {})
        dynamic = {axis for axis, size in enumerate(dimensions) if size < 0}
        if dynamic != set(spans):
            raise DemonError(
                "E_FIELD",
                f"axes of {name} are given for {sorted(spans)}; those of its {dimensions} are {sorted(dynamic)}",
            )
        shapes[name] = tuple(
            tuple(getattr(spans[axis], size) if axis in spans else fixed for axis, fixed in enumerate(dimensions))
            for size in ("least", "best", "most")
        )
    if unknown := sorted(set(axes) - set(shapes)):
        raise DemonError("E_FIELD", f"axes are given for {unknown[0]}, which is no input; inputs: {', '.join(shapes)}")
    return shapes


def _write(path: Path, plan: memoryview) -> int:
    try:
        with unfinished(path.parent) as folder:
            part = Path(folder, path.name)
            part.write_bytes(plan)
            os.replace(part, path)
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{path} cannot be written: {error}") from error
    return plan.nbytes
