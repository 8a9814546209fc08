# SPDX-License-Identifier: Apache-2.0
"""From words and timbre references to what the decoder attends to: the text encoder and the condition encoder.

A condition is `[lyric tokens | one vector per timbre clip | text tokens]`. Its three parts do not see one another, so each is
computed once and remembered, and a timbre of strength s is the clip's vector moved towards that of silence: exactly the same
move of the whole condition, at no cost. At batch 1 nothing is padded, and the result is bit for bit that of diffusers'
pipeline; a condition's bits depend on its own content only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from engine_server.model.blends import lerp
from engine_server.model.prompts import NO_METAS, Metas, format_lyrics, format_prompt, task_instruction
from engine_server.model.timbre import TIMBRE_FRAMES, TimbreReference, timbre_vector
from shared_protocol.errors import DemonError

MAX_TEXT_TOKENS = 256
MAX_LYRIC_TOKENS = 2048
CACHE_BYTES = 64 << 20
"""Budget of each of a conditioner's two caches."""


@dataclass(frozen=True)
class Condition:
    """One encoded prompt. `states` is `[1, L, E]` float32, zero where padded; `mask` is `[1, L]` bool, True for real tokens."""

    states: Tensor
    mask: Tensor

    @property
    def nbytes(self) -> int:
        return self.states.nbytes + self.mask.nbytes


def pad_condition(condition: Condition, tokens: int) -> Condition:
    """Zero-pad to a length that the configuration fixes, so that no neighbour's prompt can change a row's bits.

    The length is `tokens`, or the smallest power-of-two multiple of it that holds the condition.
    """
    while tokens < condition.states.shape[1]:
        tokens *= 2
    extra = tokens - condition.states.shape[1]
    return Condition(F.pad(condition.states, (0, 0, 0, extra)), F.pad(condition.mask, (0, extra)))


def zero_out(condition: Condition) -> Condition:
    """A condition of the same shape and mask that says nothing: the negative of ComfyUI's zero-out."""
    return replace(condition, states=torch.zeros_like(condition.states))


def encode_text(text: str, *, tokenizer: Any, text_encoder: Any, condition_encoder: Any) -> Tensor:
    """States `[1, Lt, E]` of a text prompt, cut to 256 tokens. Differentiable."""
    words = tokenizer(text, truncation=True, max_length=MAX_TEXT_TOKENS, return_tensors="pt").input_ids
    states = text_encoder(input_ids=words.to(text_encoder.device)).last_hidden_state
    return condition_encoder.text_projector(states.to(condition_encoder.null_condition_emb))


def encode_lyrics(lyrics: str, *, tokenizer: Any, text_encoder: Any, condition_encoder: Any) -> Tensor:
    """States `[1, Ll, E]` of a lyric prompt, cut to 2048 tokens: word vectors, then the lyric encoder. Differentiable."""
    words = tokenizer(lyrics, truncation=True, max_length=MAX_LYRIC_TOKENS, return_tensors="pt").input_ids
    vectors = text_encoder.get_input_embeddings()(words.to(text_encoder.device))
    real = torch.ones(words.shape, dtype=torch.bool, device=condition_encoder.null_condition_emb.device)
    return condition_encoder.lyric_encoder(
        inputs_embeds=vectors.to(condition_encoder.null_condition_emb), attention_mask=real
    )


class Conditioner:
    """Encodes prompts with the modules of one checkpoint and remembers the latest results by their content.

    `condition_tokens`: the length that `encode_padded` pads to; `timbre_cls_token`: how the timbre encoder was trained (see
    `timbre_vector`); `turbo`: whether the checkpoint is one, which limits its tasks. Inference only, one thread at a time. What
    it returns is shared with its caches and must not be written to.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        condition_encoder: Any,
        *,
        condition_tokens: int,
        timbre_cls_token: bool = False,
        turbo: bool = True,
    ) -> None:
        self.condition_tokens = condition_tokens
        self._modules = {
            "tokenizer": tokenizer, "text_encoder": text_encoder, "condition_encoder": condition_encoder
        }  # fmt: skip
        self._encoder = condition_encoder
        self._cls_token = timbre_cls_token
        self._turbo = turbo
        self._parts: RecentResults[Tensor] = RecentResults(CACHE_BYTES)
        self._conditions: RecentResults[Condition] = RecentResults(CACHE_BYTES)

    def encode(
        self,
        caption: str,
        *,
        lyrics: str = "",
        language: str = "en",
        task: str = "cover",
        tracks: Sequence[str] = (),
        instruction: str | None = None,
        metas: Metas = NO_METAS,
        timbre: Sequence[TimbreReference] = (),
        padded: bool = False,
    ) -> Condition:
        """The condition `[1, L, E]`, float32 on the condition encoder's device; `padded` as `pad_condition` does.

        `instruction` replaces that of the task. Every clip of `timbre` gives one vector, in order, also at strength 0, where it
        is the vector of silence; no clip is one such vector. Raises DemonError: `E_TASK` for what this checkpoint cannot do,
        `E_FIELD` for a language that is no code or latents of the wrong width.
        """
        usual = task_instruction(task, tracks, turbo=self._turbo)
        text = format_prompt(caption, usual if instruction is None else instruction, metas)
        verse = format_lyrics(lyrics, language)
        clips = [(clip, clip.fingerprint()) for clip in timbre]
        key = (padded, text, verse, tuple((digest, clip.strength) for clip, digest in clips))

        def make() -> Condition:
            condition = self._assemble(text, verse, clips)
            return pad_condition(condition, self.condition_tokens) if padded else condition

        return self._conditions.get(key, make)

    def encode_padded(self, caption: str, **details: Any) -> Condition:
        """What the decoder takes: `encode` with the same arguments, padded to the configured length or a multiple of it."""
        return self.encode(caption, padded=True, **details)

    def null(self, like: Condition) -> Condition:
        """The learned unconditional sequence, of the shape and mask of `like`: the negative that the model was trained with."""
        learned = self._encoder.null_condition_emb.detach().to(like.states)
        return replace(like, states=learned * like.mask[..., None])

    @torch.no_grad()
    def _assemble(self, text: str, verse: str, clips: Sequence[tuple[TimbreReference, str]]) -> Condition:
        timbre = [self._timbre(clip, digest) for clip, digest in clips] or [self._silence()]
        parts = [
            self._parts.get(("lyrics", verse), lambda: encode_lyrics(verse, **self._modules)),
            torch.stack(timbre, dim=1),
            self._parts.get(("text", text), lambda: encode_text(text, **self._modules)),
        ]
        states = torch.cat(parts, dim=1).float()
        return Condition(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def _timbre(self, clip: TimbreReference, digest: str) -> Tensor:
        channels = self._encoder.silence_latent.shape[2]
        if clip.latents.shape[1] != channels:
            raise DemonError(
                "E_FIELD", f"timbre latents have {clip.latents.shape[1]} channels; {channels} are expected"
            )
        vector = self._parts.get(("timbre", digest), lambda: self._vector(clip.latents))
        return lerp(self._silence(), vector, clip.strength, name="timbre strength")

    def _silence(self) -> Tensor:
        return self._parts.get("silence", lambda: self._vector(self._encoder.silence_latent[0, :TIMBRE_FRAMES]))

    def _vector(self, latents: Tensor) -> Tensor:
        """The vector `[1, E]` of a clip, float32 so that strengths are not rounded to the encoder's type."""
        like = self._encoder.null_condition_emb
        return timbre_vector(self._encoder.timbre_encoder, latents.to(like), cls_token=self._cls_token).float()


Sized = TypeVar("Sized", Tensor, Condition)


class RecentResults(Generic[Sized]):
    """The most recently used results by key, within a budget of bytes; the newest stays whatever its size."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._results: OrderedDict[Hashable, Sized] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: Hashable, make: Callable[[], Sized]) -> Sized:
        """The remembered result of `key`, or that of `make`."""
        if key not in self._results:
            result = make()
            self._results[key] = result
            self._used += result.nbytes
            while self._used > self._budget and len(self._results) > 1:
                self._used -= self._results.popitem(last=False)[1].nbytes
        self._results.move_to_end(key)
        return self._results[key]
