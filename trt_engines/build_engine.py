# SPDX-License-Identifier: Apache-2.0
"""Engines built ahead of time, without the GPU that they are for.

TensorRT-RTX compiles for a kind of GPU by the name of its compute capability, and finishes the kernels on the GPU itself when the
engine is loaded. Such an engine's weights are fixed: one that can be refitted has to be built where a GPU is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared_protocol.errors import DemonError
from trt_engines.onnx_files import Limits, size_limits
from trt_engines.parse_network import ParsedNetwork, parse_network
from trt_engines.profiles import Axes

NEEDS_GPU = ". An engine whose weights can be written (--refit) builds only on a machine with the GPU that it is for"


def build_engine(
    onnx: Path, engine: Path, axes: Axes, *, compute_capabilities: Sequence[str], refittable: Iterable[str] = ()
) -> int:
    """Build an engine of an ONNX file, write it whole or not at all, and return its size in bytes. Takes seconds to minutes.

    axes: a span for each dynamic axis, see `profiles.py`. compute_capabilities: names such as "SM89", one at least. refittable:
    names of the weights that can be written into the engine; of all others TensorRT may make whatever is fastest.

    Raises DemonError: `E_BACKEND` without a TensorRT that can do this, `E_ONNX` as `parse_network`, `E_FIELD` for axes that are
    not the network's or beyond what it was exported for, and for unknown compute capabilities, `E_ENGINE_BUILD` with what
    TensorRT says, `E_OUTPUT`.
    """
    parsed = parse_network(onnx)
    trt, builder = parsed.library.module, parsed.builder
    config = builder.create_builder_config()
    _aim(config, trt, compute_capabilities)
    can_be_written = _mark(parsed, config, refittable)
    profile = builder.create_optimization_profile()
    _check_limits(axes, size_limits(onnx))
    for name, shapes in _shapes(parsed, axes).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    parsed.library.errors.clear()
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        why = f"{onnx} does not build: {parsed.library.take_errors()}"
        raise DemonError("E_ENGINE_BUILD", why + NEEDS_GPU if can_be_written else why)
    return _write(engine, memoryview(plan))


def _aim(config: Any, trt: Any, names: Sequence[str]) -> None:
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        raise DemonError(
            "E_BACKEND",
            "this TensorRT builds for the GPU that it runs on only; install tensorrt-rtx to build ahead of time",
        )
    values = dict(known.__members__)
    taken = sorted(name for name in values if name.startswith("SM"))
    if not names or any(name not in taken for name in names):
        given = ", ".join(names) or "empty"
        raise DemonError("E_FIELD", f"compute_capabilities is {given}; this TensorRT builds for {', '.join(taken)}")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(values[name], index)


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
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder, path.name)
            part.write_bytes(plan)
            os.replace(part, path)
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{path} cannot be written: {error}") from error
    return plan.nbytes
