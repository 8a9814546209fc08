# SPDX-License-Identifier: Apache-2.0
"""From the host to a device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Tensor, device: torch.device | str) -> Tensor:
    """Values on a device; those that lie there already as they are. Any thread.

    To CUDA they go through pinned memory, without waiting for what the device is doing; `values` may be written to at once.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        # Not pin_memory(): it keeps strides (expanded values cannot be copied then, and those with gaps make the host wait), and
        # what the caller pinned would be read when the caller may have written to it.
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True).copy_(tensor)
        return pinned.to(device, non_blocking=True)
    return tensor.to(device)
