# SPDX-License-Identifier: Apache-2.0
"""The DiT with int8 Linears, for CPUs.

Weights are rounded once, per output channel; activations at every call, per row of the matrix (per token). A scale for the
whole batch, as torch's dynamic quantisation has it, would let a loud neighbour coarsen a row; here a row's bits depend on that
row only, whatever the batch: sums of integers are exact in any order.

Inference only. Time embeddings, norms and convolutions stay in float32.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from shared_protocol.errors import DemonError

WEIGHT_LIMIT = 63
"""Largest integer weight. On CPUs without VNNI two products of an 8-bit activation and a weight are added in 16 bits: with
7-bit weights they fit (2 * 255 * 63 < 2^15), with 8-bit ones they would saturate silently."""
ACTIVATION_LIMIT = 127
ZERO_POINT = 128
"""Activations are stored unsigned, around this value."""
ENGINE = "fbgemm"
SMALLEST_PEAK = 1e-30
"""Keeps a token of zeros from being divided by zero."""


class Int8Linear(nn.Module):
    """A Linear `[..., in] -> [..., out]` with 7-bit weights and 8-bit activations; float32 in and out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = _pack(linear.weight.detach().float())
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST_PEAK).mul_(1 / ACTIVATION_LIMIT)
        out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / step, 1.0, ZERO_POINT, self._packed
        )
        out = out.mul_(step)
        return out if self.bias is None else out.add_(self.bias)


def quantize_blocks(transformer: Any) -> Any:
    """A transformer whose blocks (attention and MLP) run int8; everything else is shared with the given one, not copied.

    Takes diffusers' `AceStepTransformer1DModel` in float32 on the CPU and leaves it as it is. Raises DemonError `E_BACKEND` if it
    lies elsewhere, or if this CPU has no int8 kernels in torch.
    """
    device = transformer.proj_in_conv.weight.device
    if device.type != "cpu":
        raise DemonError("E_BACKEND", f"int8 runs on the CPU only, and the model is on {device}; load it without int8")
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise DemonError(
            "E_BACKEND", "torch has no int8 kernels for this CPU (it needs x86-64 with AVX2); load it without int8"
        )
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*transformer.parameters(), *transformer.buffers())}
    integer = {id(part): Int8Linear(part) for part in transformer.layers.modules() if isinstance(part, nn.Linear)}
    return copy.deepcopy(transformer, shared | integer)


def _pack(weight: Tensor) -> Any:
    """Weights `[out, in]`, rounded per output channel, in the kernels' own layout."""
    scales = weight.abs().amax(1).clamp_min(SMALLEST_PEAK) / WEIGHT_LIMIT
    integers = (weight / scales[:, None]).round().to(torch.int8)
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE  # the packed layout is the engine's that is set while packing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # quantised tensors are deprecated; the pinned torch has them
            tensor = torch._make_per_channel_quantized_tensor(
                integers, scales.double(), torch.zeros(len(weight), dtype=torch.long), 0
            )
        return torch.ops.quantized.linear_prepack(tensor, None)
    finally:
        torch.backends.quantized.engine = previous
