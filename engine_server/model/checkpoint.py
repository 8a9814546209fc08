# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: a folder in the diffusers ACE-Step layout, loaded with diffusers' and transformers' own classes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from diffusers.models import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from msgspec import Meta
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Model

from engine_server.diffusion.schedule import MAX_STEPS
from engine_server.model.codec import Codec, load_codec
from engine_server.model.conditioning import Condition, encode_condition, pad_condition
from engine_server.model.dit import DitForward
from shared_protocol.errors import DemonError

EMBEDDED = "embedded"
ASSETS = Path(__file__).parents[1] / "assets"
REQUIRED_FOLDERS = ("transformer", "condition_encoder", "text_encoder", "tokenizer", "vae")
CODE_FRAMES = 5
"""Latent frames per code of the 5 Hz tokenizer."""
CACHED_CONDITIONS = 64


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default spans of a window in frames: past, hop and lookahead, and the crossfade between hops."""

    hop: Annotated[int, Meta(ge=2, le=250)] = 50
    past: Annotated[int, Meta(ge=0, le=5000)] = 100
    lookahead: Annotated[int, Meta(ge=2, le=250)] = 50
    crossfade: Annotated[int, Meta(ge=0, le=250)] = 10


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`demon.json` of a checkpoint folder; a folder without one gets these defaults, which suit ACE-Step v1.5 turbo."""

    cover_context: Literal["raw", "tokenizer"] = "tokenizer"
    """What the decoder sees as a cover's context: raw codec latents, or the 5 Hz tokenizer's hints."""
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 8
    shift: Annotated[float, Meta(gt=0.0, le=20.0)] = 3.0
    condition_tokens: Annotated[int, Meta(ge=8, le=4096)] = 256
    """Length that conditions are padded to."""
    geometry: Geometry = Geometry()

    def __post_init__(self) -> None:
        spans = (self.geometry.hop, self.geometry.past, self.geometry.lookahead)
        if self.cover_context == "tokenizer" and any(span % (2 * CODE_FRAMES) for span in spans):
            raise ValueError(
                f"with the tokenizer, hop, past and lookahead must be multiples of {2 * CODE_FRAMES} frames"
            )


class Checkpoint:
    """Everything that is loaded once and shared by all tracks. Inference only; one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.content_hash = content_hash(folder)
        self.settings = _read_settings(folder)
        load: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
        transformer = AceStepTransformer1DModel.from_pretrained(folder / "transformer", **load).eval()
        self._condition_encoder = AceStepConditionEncoder.from_pretrained(folder / "condition_encoder", **load).eval()
        self._text_encoder = Qwen3Model.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self._tokens: tuple[Any, Any] | None = None
        if self.settings.cover_context == "tokenizer":
            self._tokens = (
                AceStepAudioTokenizer.from_pretrained(folder / "audio_tokenizer", **load).eval(),
                AceStepAudioTokenDetokenizer.from_pretrained(folder / "audio_token_detokenizer", **load).eval(),
            )
        self.codec: Codec = load_codec(folder / "vae")
        self.decoder = DitForward(transformer)
        self.condition_width = int(self._condition_encoder.config.hidden_size)
        self._conditions: OrderedDict[str, Condition] = OrderedDict()

    @property
    def silence(self) -> Tensor:
        """The codec's latent of digital silence, `[C]`."""
        return self._condition_encoder.silence_latent[0, 0]

    @torch.no_grad()
    def condition(self, prompt: str) -> Condition:
        """The encoded and padded prompt, `[1, L, E]`; the last few prompts are remembered."""
        if prompt not in self._conditions:
            encoded = encode_condition(
                prompt,
                tokenizer=self._tokenizer,
                text_encoder=self._text_encoder,
                condition_encoder=self._condition_encoder,
            )
            self._conditions[prompt] = pad_condition(encoded, self.settings.condition_tokens)
            if len(self._conditions) > CACHED_CONDITIONS:
                self._conditions.popitem(last=False)
        self._conditions.move_to_end(prompt)
        return self._conditions[prompt]

    @torch.no_grad()
    def context(self, source: Tensor) -> Tensor:
        """The decoder's context of a cover, `[T, 2C]`, from source latents `[T, C]`: structure, then a mask of ones."""
        structure = source
        if self._tokens is not None:
            tokenizer, detokenizer = self._tokens
            codes, _ = tokenizer.tokenize(source[None], self.silence[None, None])
            structure = detokenizer(codes)[0, : source.shape[0]]
        return torch.cat([structure, torch.ones_like(structure)], dim=-1)


def load_checkpoint(name: str) -> Checkpoint:
    """The embedded checkpoint (`embedded`), or the one in a local folder.

    Raises DemonError: `E_NO_CHECKPOINT` if there is no such folder, `E_CHECKPOINT_LAYOUT` if it is not in the diffusers
    ACE-Step layout or cannot be loaded.
    """
    folder = ASSETS / EMBEDDED if name == EMBEDDED else Path(name).expanduser()
    if not folder.is_dir():
        raise DemonError(
            "E_NO_CHECKPOINT", f"there is no checkpoint folder {folder}; use --model embedded, or a folder"
        )
    missing = [part for part in REQUIRED_FOLDERS if not (folder / part).is_dir()]
    if missing:
        raise DemonError(
            "E_CHECKPOINT_LAYOUT", f"{folder} lacks {', '.join(missing)}: not the diffusers ACE-Step layout"
        )
    try:
        return Checkpoint(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{folder} cannot be loaded: {error}") from error


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files that shape the sound (weights, configurations, vocabulary)."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".txt") and path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(path.stat().st_size.to_bytes(8, "little"))
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _read_settings(folder: Path) -> Settings:
    path = folder / "demon.json"
    if not path.exists():
        return Settings()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path}: {error}") from error
