# SPDX-License-Identifier: Apache-2.0
"""The machine that engines are built for or run on, as their notes describe it."""

from __future__ import annotations

import torch

from shared_protocol.errors import DemonError
from trt_engines.metadata import Machine
from trt_engines.tensorrt_library import TensorRt


def capability(device: torch.device) -> str:
    """Compute capability of a GPU, as "SM90"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"SM{major}{minor}"


def machine_here(library: TensorRt, device: torch.device) -> Machine:
    """What runs engines on a device.

    Raises DemonError `E_DEVICE` if that is no GPU, or none that can be used: TensorRT computes on nothing else.
    """
    if device.type != "cuda":
        raise DemonError(
            "E_DEVICE",
            f"TensorRT computes on a GPU, and the device is {device}; take device cuda, or the eager backend",
        )
    if not torch.cuda.is_available():
        raise DemonError(
            "E_DEVICE",
            "TensorRT computes on a GPU, and none can be used here (no driver, or one that does not suit PyTorch: see "
            "`demon doctor`); take the eager backend",
        )
    return Machine(library.name, library.version, capability(device), torch.cuda.get_device_name(device), _driver())


def _driver() -> str:
    """The version of CUDA that the driver brings. Engines that were built ahead of time are bound to none."""
    version = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)()
    return f"CUDA {version // 1000}.{version % 1000 // 10}" if version else "unknown"
