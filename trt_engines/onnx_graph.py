# SPDX-License-Identifier: Apache-2.0
"""A torch module to an ONNX file in which every weight is an initializer under its own name, in its own layout.

torch's exporter with its own optimiser folds transposed copies of weights into anonymous constants, which no LoRA could then
be refitted into; without it, TensorRT's parser refuses the graph. So the graph is exported as it is, and tidied here with the
optimiser's own passes, except those that would touch or merge weights.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from torch import nn

from shared_protocol.errors import DemonError
from trt_engines.fp8_onnx import TRANSLATIONS
from trt_engines.unfinished import unfinished

OPSETS = {torch.float32: 20, torch.bfloat16: 23, torch.float16: 23}
"""ONNX operators by the type of the arithmetic. 23 has attention and RMS norm as single operators, which TensorRT runs in half
precision only."""
MOST_INSIDE = 1 << 30
"""Bytes of weights that a file holds itself. Protocol buffers end at 2 GiB; what is larger lies in `NAME.onnx.data` beside it."""
DATA_SUFFIX = ".data"
ROUNDS = 2
"""Folding exposes patterns to rewrite, and rewriting constants to fold: after two rounds nothing is left to do."""


def export_graph(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    dynamic_shapes: Sequence[dict[int, Any]],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> ir.Model:
    """The module's forward as an ONNX graph.

    example: one tensor for each input, with no dynamic axis of length 1. dynamic_shapes: for each input its dynamic axes.
    """
    with torch.no_grad(), _quiet():
        program = torch.export.export(module, tuple(example), dynamic_shapes=tuple(dynamic_shapes))
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            optimize=False,
            verbose=False,
            custom_translation_table=TRANSLATIONS,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    if exported is None:  # only where a file is written
        raise AssertionError("torch.onnx.export gave no program")
    return tidy(exported.model, keep=set(module.state_dict()))


def tidy(model: ir.Model, *, keep: Collection[str]) -> ir.Model:
    """The graph with constants folded and patterns simplified; initializers named in `keep` stay as they are. Changed in place.

    What the exporter noted beside every node, source files and their lines among it, is dropped: equal weights give equal files.
    """

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in keep for value in node.inputs) else None

    optimizer.inline(model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
        rewriter.rewrite(model)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(
            size_limit=1
        ),  # equal numbers, never weights: what is quantised alike is so once
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        common.ClearMetadataAndDocStringPass(),
    )(model)
    return model


def save_graph(model: ir.Model, path: Path, *, external_data: bool | None = None) -> None:
    """Write the graph to `path`, whole or not at all; what was there is replaced.

    external_data: whether weights go to a file beside it; None: if there are more than `MOST_INSIDE` bytes of them. Raises
    DemonError `E_OUTPUT`.
    """
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    outside = weights > MOST_INSIDE if external_data is None else external_data
    data = path.with_name(path.name + DATA_SUFFIX)
    try:
        with unfinished(path.parent) as folder:
            part = Path(folder, path.name)
            ir.save(model, part, external_data=data.name if outside else None)
            path.unlink(missing_ok=True)  # interrupted here, there is no model rather than one with another's weights
            if outside:
                os.replace(part.with_name(data.name), data)
            else:
                data.unlink(missing_ok=True)
            os.replace(part, path)
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{path} cannot be written: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells of itself: its own deprecations, and that torchvision is not installed."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)
