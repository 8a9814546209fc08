# SPDX-License-Identifier: Apache-2.0
"""Elementary functions whose bits are the same in every process.

torch's are MKL's on the CPU, each of which picks its kernel for this processor at its first call. Where several threads share
that call, now and then one of them computes its part with another kernel: in about one process of two hundred an array came out
with other last bits, once (torch 2.13, Intel with AVX-512, whatever `MKL_CBWR` says). So every function is called here first, by
one thread, when a package that computes is imported.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2",
    "expm1", "floor", "lgamma", "log", "log10", "log1p", "log2", "reciprocal", "round", "rsqrt", "sigmoid", "sin", "sinh", "sqrt",
    "tan", "tanh", "trunc",
)  # fmt: skip
"""All that torch may hand to MKL, and some that it computes itself."""
VALUES = 64
"""Too few for a second thread, and more than a scalar loop would take."""


def choose_kernels() -> None:
    """Call every function once, on this thread."""
    for dtype in (torch.float32, torch.float64):
        values = torch.full((VALUES,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(values)
