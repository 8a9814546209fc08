# SPDX-License-Identifier: Apache-2.0
"""Whether an ONNX file computes what eager computes, by running both on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from shared_protocol.errors import DemonError
from trt_engines.onnx_files import read_model

FATAL = 4
"""onnxruntime's severity: what it would print as an error is in the exception that it raises."""


@dataclass(frozen=True)
class Agreement:
    """How far an output is from what it should be, over all cases."""

    largest_error: float
    """Of any value, not relative."""
    scale: float
    """Root of the mean square of the values that should be."""

    @property
    def relative(self) -> float:
        """The largest error as a part of the scale; infinite for an expectation of nothing but zeros that is not met."""
        if self.scale == 0:
            return float("inf") if self.largest_error else 0.0
        return self.largest_error / self.scale


class OnnxModel:
    """An ONNX file in onnxruntime on the CPU, on one thread that does not spin while it waits."""

    def __init__(self, path: Path) -> None:
        """Raises DemonError `E_ONNX` for a file that cannot be read or that onnxruntime's CPU provider lacks operators for."""
        read_model(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = FATAL
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise DemonError("E_ONNX", f"{path} does not run in onnxruntime on the CPU: {error}") from error
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Raises DemonError `E_ONNX` for inputs that the graph cannot take, such as odd frame counts."""
        try:
            outputs = self._session.run(None, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise DemonError("E_ONNX", f"{self._path} does not take {shapes}: {error}") from error
        return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(self.outputs, outputs, strict=True)}


def compare(path: Path, eager: Callable[..., Any], cases: Iterable[Mapping[str, Tensor]]) -> dict[str, Agreement]:
    """How far the outputs of an ONNX file are from those of `eager`, by name.

    eager: takes the inputs by name and gives a tensor, or a tuple of them in the file's order; cases: inputs by name, of as many
    shapes as matter. Raises DemonError `E_ONNX`, also for an output of another shape or one that is not finite, and ValueError
    if there are no cases.
    """
    model = OnnxModel(path)
    errors: dict[str, list[float]] = {name: [] for name in model.outputs}
    squares: dict[str, list[Tensor]] = {name: [] for name in model.outputs}
    for case in cases:
        with torch.no_grad():
            expected = eager(**case)
        wanted = dict(zip(model.outputs, expected if isinstance(expected, tuple) else (expected,), strict=True))
        for name, got in model(case).items():
            if got.shape != wanted[name].shape or not got.isfinite().all():
                fault = f"gives {name} {list(got.shape)} for {list(wanted[name].shape)}, or values that are not finite"
                raise DemonError("E_ONNX", f"{path} {fault}")
            errors[name].append(float((got - wanted[name]).abs().max()))
            squares[name].append(wanted[name].double().square().flatten())
    if not all(errors.values()):
        raise ValueError("cases: at least one is needed")
    return {name: Agreement(max(errors[name]), float(torch.cat(squares[name]).mean().sqrt())) for name in model.outputs}
