# SPDX-License-Identifier: Apache-2.0
"""The operators of `fp8.py` in ONNX: a pair of Quantize and Dequantize, whose types TensorRT takes a matrix product's from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20

import trt_engines.fp8  # noqa: F401 (it registers the operators)

OPS: Any = opset20
"""Untyped: its operators are typed for functions that are scripted, not traced."""


def _rounded(x: Any, scale: float) -> Any:
    step = OPS.Constant(value=ir.tensor(scale, dtype=x.dtype))
    zero = OPS.Constant(value=ir.tensor(0.0, dtype=ir.DataType.FLOAT8E4M3FN))
    return OPS.DequantizeLinear(OPS.QuantizeLinear(x, step, zero), step)


def _widened(weight: Any, scales: Any) -> Any:
    return OPS.DequantizeLinear(weight, scales, axis=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.demon.fp8_rounded.default: _rounded,
    torch.ops.demon.fp8_widened.default: _widened,
}
"""For torch's exporter."""
