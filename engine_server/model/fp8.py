# SPDX-License-Identifier: Apache-2.0
"""E4M3, and matrices in it: the one quantiser of weights, in torch and in engines, and of what meets them in torch.

The format (Micikevicius et al. 2022, "FP8 Formats for Deep Learning") has four significant bits from 2^-6 to 448. Every row has a
scale of its own, a power of two. A number with an exponent of its own loses nothing by that but up to one bit of range, and then
scaling is exact: a value scaled back is the same in bfloat16, float16 and float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
EXPONENT, ONE, TWICE_ONE = 0x7F800000, 0x3F800000, 0x7F000000
"""Bits of a float32: of its exponent; the number 1; and the bits of 2^e and of 2^-e added together."""


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`[..., n]` of any float type to E4M3 and a scale for every row, `[...]` float32.

    A scale is the least power of two by which the row's largest number becomes less than E4M3's greatest; 1 for a row of zeros.
    A row's bits depend on that row only. What is not finite makes its row's scale infinite.
    """
    # By bits, because compilers make logarithms, powers and quotients of powers of two that are not quite.
    bits = (rows.abs().amax(-1).float() * (2 / LARGEST)).view(torch.int32) & EXPONENT
    bits = torch.where(bits == 0, ONE, bits)
    inverse = (TWICE_ONE - bits).view(torch.float32)
    return (rows.float() * inverse[..., None]).to(FP8), bits.view(torch.float32)
