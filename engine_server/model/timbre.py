# SPDX-License-Identifier: Apache-2.0
"""Timbre references: one vector per clip of audio whose sound the music should have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from shared_protocol.errors import DemonError

TIMBRE_FRAMES = 750
"""Length of the timbre reference that the condition encoder was trained with: 30 s."""
_REFERENCE_S, _PIECE_S = 30, 10


@dataclass(frozen=True, eq=False)
class TimbreReference:
    """A clip's latents `[Tr, C]` of any length, and how far the timbre goes from silence (0) to the clip (1).

    Raises DemonError: `E_FIELD` for a shape or strength out of range, `E_NOT_FINITE` for NaN or infinity.
    """

    latents: Tensor
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.latents.ndim != 2 or self.latents.numel() == 0:
            raise DemonError(
                "E_FIELD", f"timbre latents have shape {tuple(self.latents.shape)}; [frames, channels] is expected"
            )
        if not bool(torch.isfinite(self.latents).all()):
            raise DemonError("E_NOT_FINITE", "timbre latents hold NaN or infinity")
        if not 0.0 <= self.strength <= 1.0:
            raise DemonError("E_FIELD", f"timbre strength is {self.strength}; 0 to 1 is expected")

    def fingerprint(self) -> str:
        """SHA-256 of the latents' values, for caches; computed anew each time, because tensors can be written to."""
        values = self.latents.detach().to("cpu", torch.float32).contiguous()
        return hashlib.sha256(values.numpy().tobytes()).hexdigest() + f":{tuple(values.shape)}"


def timbre_indices(samples: int, rate: int) -> Tensor:
    """Which samples of a reference upstream's condition encoder hears: `[30 * rate]` int64, each in `[0, samples)`.

    Three pieces of 10 s (the front, from one third on, the end) of audio that is first repeated to 30 s or more. Encode
    `audio[:, timbre_indices(...)]` to make a reference just as upstream does. Raises DemonError `E_FIELD` for an empty clip.
    """
    if samples < 1:
        raise DemonError("E_FIELD", f"a timbre reference has {samples} samples; at least 1 is expected")
    wanted, piece = _REFERENCE_S * rate, _PIECE_S * rate
    total = samples * max(1, -(-wanted // samples))
    return torch.cat([start + torch.arange(piece) for start in (0, total // 3, total - piece)]) % samples


def timbre_vector(encoder: Any, latents: Tensor, *, cls_token: bool = False) -> Tensor:
    """The vector `[1, E]` of one clip `[Tr, C]`, by the layers of diffusers' `AceStepTimbreEncoder`. Differentiable.

    The first token's state stands for the clip. In 2B checkpoints that token is the first frame; XL ones were trained with a
    learned token before it (`cls_token`), which diffusers' forward never prepends. Without it this is that forward, bit for bit.
    """
    hidden = encoder.embed_tokens(latents[None])
    if cls_token:
        hidden = torch.cat([encoder.special_token.to(hidden), hidden], dim=1)
    place = torch.arange(hidden.shape[1], device=hidden.device, dtype=torch.float32)
    cos, sin = get_1d_rotary_pos_embed(
        encoder.head_dim,
        place,  # type: ignore[arg-type]  # tensors are taken too, whatever the annotation says
        theta=encoder.rope_theta,
        use_real=True,
        repeat_interleave_real=False,
    )
    rope = (cos.to(hidden), sin.to(hidden))
    far = (place[:, None] - place[None, :]).abs() > encoder.sliding_window
    band = hidden.new_zeros(far.shape).masked_fill_(far, torch.finfo(hidden.dtype).min)[None, None]
    for layer, kind in zip(encoder.layers, encoder._layer_types, strict=True):
        hidden = layer(
            hidden_states=hidden,
            position_embeddings=rope,
            attention_mask=band if kind == "sliding_attention" else None,
        )
    return encoder.norm(hidden)[:, 0]
