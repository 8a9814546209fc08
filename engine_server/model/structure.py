# SPDX-License-Identifier: Apache-2.0
"""What the decoder sees besides its noisy latents: a context `[T, 2C]` of structure latents and a mask.

The structure of a cover is its source put through the 5 Hz tokenizer and back ("hints"), which keeps melody and rhythm and
forgets the sound; checkpoints without a tokenizer see the source itself. The mask is one 0 or 1 per frame (1: make this frame
anew), the same in all C mask channels. As in diffusers' `AceStepPipeline`, but by frames, and exact for windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike
from engine_server.model.blends import lerp
from shared_protocol.errors import DemonError

CHUNK_GROUPS = 32
"""Groups of frames per forward, always: groups do not see one another, but the bits of a matrix product depend on its size."""
_CODE = re.compile(r"<\|audio_code_(\d+)\|>")

Span = tuple[int, int]
"""A half-open interval of frames."""


class Structure:
    """Hints, codes and contexts of one checkpoint. Inference only, one thread at a time.

    `tokenizer`, `detokenizer`: diffusers' `AceStepAudioTokenizer` and `AceStepAudioTokenDetokenizer`, or both None.
    `silence`: the codec's latents of silence, `[S, C]` or one frame `[C]`; repeated where it is too short.
    """

    def __init__(self, tokenizer: Any | None, detokenizer: Any | None, silence: Tensor) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer
        self._silence = silence.reshape(-1, silence.shape[-1]).float()
        self.group_frames = 1 if tokenizer is None else int(tokenizer.config.pool_window_size)
        """Frames per code: windows that start at multiples of it have the hints of the whole, bit for bit."""

    def silence(self, frames: int) -> Tensor:
        """Latents of silence, `[frames, C]`."""
        repeats = -(-frames // len(self._silence))
        return self._silence.repeat(repeats, 1)[:frames]

    def fit(self, latents: Tensor, frames: int) -> Tensor:
        """Latents cut, or prolonged by silence, to `[frames, C]`: a structure reference takes the length of its source."""
        extra = max(0, frames - len(latents))
        return torch.cat([latents[:frames], self.silence(extra).to(latents)])

    @torch.no_grad()
    def hints(self, latents: Tensor) -> Tensor:
        """The structure of source latents, `[T, C]` float32 for any T of 1 or more; the latents themselves without a tokenizer.

        An incomplete last group is completed by silence. Raises DemonError `E_FIELD` for another shape.
        """
        self._check(latents)
        if self._tokenizer is None:
            return latents
        tokenizer, detokenizer = self._need_tokens()
        hints = _in_chunks(self._groups(latents), lambda chunk: detokenizer(tokenizer(chunk)[0]))
        return hints.reshape(-1, hints.shape[-1])[: len(latents)].float()

    @torch.no_grad()
    def codes(self, latents: Tensor) -> Tensor:
        """The codes of source latents, int64 `[ceil(T / 5)]`. Raises DemonError: `E_NO_TOKENIZER`, `E_FIELD`."""
        tokenizer, _ = self._need_tokens()
        self._check(latents)
        return _in_chunks(self._groups(latents), lambda chunk: tokenizer(chunk)[1]).reshape(-1)

    @torch.no_grad()
    def from_codes(self, codes: Sequence[int] | Tensor) -> Tensor:
        """The hints of codes, `[5 * N, C]` float32. Raises DemonError: `E_NO_TOKENIZER`, `E_FIELD` for a code out of range."""
        tokenizer, detokenizer = self._need_tokens()
        numbers = torch.as_tensor(codes, dtype=torch.long, device=tokenizer.device).reshape(-1, 1)
        size = tokenizer.quantizer.codebook_size
        if not numbers.numel() or bool(((numbers < 0) | (numbers >= size)).any()):
            raise DemonError(
                "E_FIELD", f"codes holds {len(numbers)} codes; at least one, each from 0 to {size - 1}, is expected"
            )
        hints = _in_chunks(numbers, lambda chunk: detokenizer(tokenizer.quantizer.get_output_from_indices(chunk)))
        return hints.reshape(-1, hints.shape[-1]).float()

    def parse_codes(self, text: str) -> list[int]:
        """The codes of a string of `<|audio_code_N|>`. Other text is skipped and too large codes are clamped, as upstream does.

        Raises DemonError: `E_NO_TOKENIZER`, `E_FIELD` if there is no code at all.
        """
        tokenizer, _ = self._need_tokens()
        largest = tokenizer.quantizer.codebook_size - 1
        codes = [min(int(number), largest) for number in _CODE.findall(text)]
        if not codes:
            raise DemonError("E_FIELD", "the text holds no code; codes are written <|audio_code_N|>")
        return codes

    def blend(self, a: Tensor, b: Tensor, amount: CurveLike) -> Tensor:
        """Structure `a` `[T, C]` moved towards `b`, which is fitted to T, by a number or curve `[T]` in [0, 1]."""
        return lerp(a, self.fit(b, len(a)), amount, name="structure blend")

    def strengthen(self, hints: Tensor, strength: CurveLike) -> Tensor:
        """From silence (strength 0: no structure is asked for) to the hints (1), by a number or curve `[T]` in [0, 1]."""
        return lerp(self.silence(len(hints)).to(hints), hints, strength, name="structure strength")

    def text_context(self, frames: int) -> Tensor:
        """The context `[T, 2C]` of text2music: silence, all of it to be made."""
        return _context(self.silence(frames))

    def cover_context(self, structure: Tensor) -> Tensor:
        """The context `[T, 2C]` of a cover, from its hints: all of it is to be made."""
        return _context(structure)

    def repaint_context(self, source: Tensor, spans: Sequence[Span]) -> Tensor:
        """The context `[T, 2C]` of a repaint: the source latents with silence where `spans` are to be made.

        Raises DemonError `E_FIELD` for a span that is empty or leaves the source.
        """
        inside = _inside(len(source), spans).to(source.device)
        silent = torch.where(inside[:, None], self.silence(len(source)).to(source), source)
        return _context(silent, inside)

    def track_context(self, source: Tensor, spans: Sequence[Span] | None = None) -> Tensor:
        """The context `[T, 2C]` of extract, lego and complete: the source latents themselves.

        All frames are to be made, or for lego the frames of `spans`. Raises DemonError `E_FIELD` as for a repaint.
        """
        return _context(source, None if spans is None else _inside(len(source), spans).to(source.device))

    def _check(self, latents: Tensor) -> None:
        channels = self._silence.shape[1]
        if latents.ndim != 2 or latents.shape[0] == 0 or latents.shape[1] != channels:
            raise DemonError(
                "E_FIELD", f"latents have shape {tuple(latents.shape)}; [1 or more, {channels}] is expected"
            )

    def _groups(self, latents: Tensor) -> Tensor:
        """Latents `[T, C]`, completed by silence, as `[N, 5, C]` where and as the tokenizer computes."""
        tokenizer, _ = self._need_tokens()
        count = -(-len(latents) // self.group_frames)
        whole = self.fit(latents, count * self.group_frames).to(tokenizer.device, tokenizer.dtype)
        return whole.reshape(count, self.group_frames, -1)

    def _need_tokens(self) -> tuple[Any, Any]:
        if self._tokenizer is None or self._detokenizer is None:
            raise DemonError("E_NO_TOKENIZER", "this checkpoint has no audio tokenizer: it takes latents, not codes")
        return self._tokenizer, self._detokenizer


def _in_chunks(rows: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """`forward` of `[1, CHUNK_GROUPS, ...]` over rows `[N, ...]`; the result's dimension 1 holds N, or a multiple of it."""
    pieces = []
    for part in rows.split(CHUNK_GROUPS):
        filler = part.new_zeros(CHUNK_GROUPS - len(part), *part.shape[1:])
        result = forward(torch.cat([part, filler])[None])
        pieces.append(result[:, : len(part) * (result.shape[1] // CHUNK_GROUPS)])
    return torch.cat(pieces, dim=1)


def _inside(frames: int, spans: Sequence[Span]) -> Tensor:
    """Which of the frames lie in one of the spans, `[T]` bool."""
    inside = torch.zeros(frames, dtype=torch.bool)
    for first, stop in spans:
        if not 0 <= first < stop <= frames:
            raise DemonError("E_FIELD", f"span is [{first}, {stop}); 0 <= first < stop <= {frames} frames is expected")
        inside[first:stop] = True
    return inside


def _context(latents: Tensor, inside: Tensor | None = None) -> Tensor:
    """Latents `[T, C]` and C copies of the mask, `[T, 2C]`."""
    mask = torch.ones_like(latents) if inside is None else inside[:, None].to(latents).expand_as(latents)
    return torch.cat([latents, mask], dim=-1)
