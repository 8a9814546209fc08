# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms whose bits are the same in every process.

torch's own on the CPU are MKL's, which gives transforms of 4096 points and more one of two roundings, drawn once per
process: in about one process of fifty the rarer one (torch 2.13, Intel with AVX-512, whatever `MKL_CBWR` says). So
what is inferred on the CPU goes through SciPy's pocketfft, whose rows depend neither on each other nor on the number of
threads. Gradients, compiled graphs and other devices keep torch's transforms. Any thread.
"""

from __future__ import annotations

import scipy.fft
import torch
from torch import Tensor


def rfft(x: Tensor) -> Tensor:
    """`[..., n]` real -> `[..., n // 2 + 1]` complex, as `torch.fft.rfft`."""
    if _is_torchs(x):
        return torch.fft.rfft(x)
    return torch.from_numpy(scipy.fft.rfft(x.numpy(), workers=torch.get_num_threads()))


def irfft(x: Tensor, n: int) -> Tensor:
    """`[..., n // 2 + 1]` complex -> `[..., n]` real, as `torch.fft.irfft`."""
    if _is_torchs(x):
        return torch.fft.irfft(x, n=n)
    return torch.from_numpy(scipy.fft.irfft(x.numpy(), n=n, workers=torch.get_num_threads()))


def _is_torchs(x: Tensor) -> bool:
    return not x.is_cpu or x.requires_grad or torch.compiler.is_compiling()
