# SPDX-License-Identifier: Apache-2.0
"""The two layouts of a checkpoint on disk, read as data: which tensor of which file goes where in which module.

- diffusers: a folder for each part (`transformer`, `condition_encoder`, `text_encoder`, `tokenizer`, `vae`, and
  `audio_tokenizer` and `audio_token_detokenizer` for checkpoints that use them);
- original: ACE-Step's own folder with `config.json`, `model.safetensors` (or shards with an index) and
  `silence_latent.pt`, with `vae` and `Qwen3-Embedding-0.6B` beside it.

Weights come from safetensors only, and no code from a checkpoint is ever run.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from diffusers.models import AceStepTransformer1DModel
from diffusers.models.modeling_utils import no_init_weights
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine_server.model.original_layout import part_configs, sort_names
from shared_protocol.errors import DemonError

MODULES = {
    "transformer": AceStepTransformer1DModel,
    "condition_encoder": AceStepConditionEncoder,
    "audio_tokenizer": AceStepAudioTokenizer,
    "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
}
TOKENIZERS = ("audio_tokenizer", "audio_token_detokenizer")
REQUIRED_FOLDERS = ("transformer", "condition_encoder", "text_encoder", "tokenizer", "vae")
VAE, TEXT_ENCODER = "vae", "Qwen3-Embedding-0.6B"
COMPANIONS = (VAE, TEXT_ENCODER)
"""Folders beside an original checkpoint's own; upstream's decoder-only repositories come without them."""
SILENCE = "silence_latent"
HASHED_SUFFIXES = (".safetensors", ".json", ".txt")
"""Files that shape the sound: weights, configurations, vocabulary."""
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SHOWN_KEYS = 4


@dataclass(frozen=True)
class Part:
    """A module to build: its configuration, and for each name in it the file and the name there."""

    config: Mapping[str, Any]
    places: Mapping[str, tuple[Path, str]]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What is not in a safetensors file under its own name."""


@dataclass(frozen=True)
class Layout:
    """A checkpoint on disk. `parts` are the modules of `MODULES` that are there; the other parts load from folders."""

    folder: Path
    parts: Mapping[str, Part]
    text_encoder: Path
    tokenizer: Path
    vae: Path
    files: Mapping[str, Path]
    """All files that shape the sound, by a label that does not depend on where they lie."""


def read_layout(folder: Path, companions: Path | None = None) -> Layout:
    """Detect the layout of a folder and read its configurations and names, but no weights.

    companions: the folder that holds an original checkpoint's `vae` and `Qwen3-Embedding-0.6B`; by default they are looked
    for in `folder` and beside it. Raises DemonError: `E_CHECKPOINT_LAYOUT`, `E_CHECKPOINT_PARTS` for companions that are
    not found, `E_CHECKPOINT_KEYS` for tensors that belong nowhere.
    """
    if (folder / "transformer").is_dir():
        return _read_diffusers(folder)
    if (folder / "config.json").is_file():
        return _read_original(folder, companions)
    inside = sorted(child.name for child in folder.iterdir() if (child / f"{SILENCE}.pt").is_file())
    hint = f"; name the checkpoint in it: {', '.join(inside)}" if inside else ""
    raise DemonError(
        "E_CHECKPOINT_LAYOUT",
        f"{folder} is no checkpoint: it has neither a folder transformer (diffusers' layout) nor config.json (original){hint}",
    )


def build(name: str, part: Part, *, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A module of `MODULES` with exactly the weights of `part`: every tensor of it filled, none left over.

    Its parameters take `dtype`, or with None each that of its file; buffers, which are latents, are float32. Raises DemonError:
    `E_CHECKPOINT_KEYS` for a tensor that is missing, left over or of another shape, `E_CHECKPOINT_LAYOUT` for a configuration
    that describes no module.
    """
    try:
        with no_init_weights():
            module = MODULES[name].from_config(dict(part.config))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"the configuration of {name} describes no module: {error}") from error
    parameters = dict(module.named_parameters())
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    given = {key: place[1] for key, place in part.places.items()} | {key: key for key in part.tensors}
    missing = [key for key in wanted if key not in given]
    unexpected = [original for key, original in given.items() if key not in wanted]
    check_keys(name, missing=missing, unexpected=unexpected)
    tensors, misshapen = {}, []
    for key, tensor in _read_tensors(part):
        if tuple(tensor.shape) != wanted[key]:
            misshapen.append(f"{key} {tuple(tensor.shape)} instead of {wanted[key]}")
        tensors[key] = tensor.to(device, (dtype or tensor.dtype) if key in parameters else torch.float32)
    check_keys(name, misshapen=misshapen)
    module.load_state_dict(tensors, assign=True)
    return module.to(device).eval().requires_grad_(False)


def check_keys(
    name: str, *, missing: Sequence[str] = (), unexpected: Sequence[str] = (), misshapen: Sequence[str] = ()
) -> None:
    """Raise DemonError `E_CHECKPOINT_KEYS` with counts and the first few names, if there are any."""
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    said = [
        f"{len(keys)} {what} ({', '.join(list(keys)[:SHOWN_KEYS])}{', ...' if len(keys) > SHOWN_KEYS else ''})"
        for what, keys in groups.items()
        if keys
    ]
    if said:
        raise DemonError("E_CHECKPOINT_KEYS", f"tensors of {name}: {'; '.join(said)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DemonError `E_CHECKPOINT_LAYOUT`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path}: {error}") from error


def _read_diffusers(folder: Path) -> Layout:
    absent = [part for part in REQUIRED_FOLDERS if not (folder / part).is_dir()]
    if absent:
        raise DemonError(
            "E_CHECKPOINT_LAYOUT", f"{folder} lacks {', '.join(absent)}: diffusers' layout has all of them"
        )
    parts = {}
    for name, kind in MODULES.items():
        if (folder / name).is_dir():
            config = read_json(folder / name / "config.json")
            if config.get("_class_name") != kind.__name__:
                raise DemonError(
                    "E_CHECKPOINT_LAYOUT",
                    f"{folder / name} holds a {config.get('_class_name')}, not an {kind.__name__}",
                )
            places = _places(folder / name, "diffusion_pytorch_model")
            parts[name] = Part(config, {key: (path, key) for key, path in places.items()})
    return Layout(
        folder=folder,
        parts=parts,
        text_encoder=folder / "text_encoder",
        tokenizer=folder / "tokenizer",
        vae=folder / "vae",
        files=_files_below(folder),
    )


def _read_original(folder: Path, companions: Path | None) -> Layout:
    try:
        configs = part_configs(read_json(folder / "config.json"))
    except ValueError as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{folder / 'config.json'}: {error}") from error
    files = _places(folder, "model")
    names, unexpected = sort_names(files)
    check_keys(str(folder), unexpected=unexpected)
    silence_path, silence = _read_silence(folder)
    parts = {
        name: Part(
            configs[name],
            {ours: (files[original], original) for ours, original in names[name].items()},
            {SILENCE: silence} if name == "condition_encoder" else {},
        )
        for name in MODULES
    }
    vae, text_encoder = (_companion(folder, name, companions) for name in COMPANIONS)
    own = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in HASHED_SUFFIXES and path.is_file()}
    return Layout(
        folder=folder,
        parts=parts,
        text_encoder=text_encoder,
        tokenizer=text_encoder,
        vae=vae,
        files={
            **own,
            silence_path.name: silence_path,
            **{f"vae/{label}": path for label, path in _files_below(vae).items()},
            **{f"text_encoder/{label}": path for label, path in _files_below(text_encoder).items()},
        },
    )


def _companion(folder: Path, name: str, companions: Path | None) -> Path:
    """An original checkpoint's `vae` or text encoder folder."""
    places = [folder, folder.resolve().parent] if companions is None else [companions]
    for place in places:
        if (place / name / "config.json").is_file():
            return place / name
    where = " nor in ".join(str(place) for place in places)
    raise DemonError(
        "E_CHECKPOINT_PARTS",
        f"{name} is not in {where}: a decoder alone cannot play; put upstream's folder {name} beside {folder.name}, "
        f"or say where {' and '.join(COMPANIONS)} are",
    )


def _places(folder: Path, stem: str) -> dict[str, Path]:
    """The file of every tensor: of `STEM.safetensors`, or of the shards that `STEM.safetensors.index.json` lists."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return dict.fromkeys(_names(whole), whole)
    if not index.is_file():
        unsafe = sorted(
            path.name for path in folder.iterdir() if path.suffix in UNSAFE_SUFFIXES and path.stem != SILENCE
        )
        advice = f"; it has {unsafe[0]}, which is not loaded: convert it to safetensors" if unsafe else ""
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{folder} lacks {whole.name} and {index.name}{advice}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(name) for name in weight_map.values()):
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{index}: weight_map does not map names to files of its own folder")
    shards = [folder / shard for shard in sorted(set(weight_map.values()))]
    return {name: shard for shard in shards for name in _names(shard)}


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path} cannot be read: {error}") from error


def _read_tensors(part: Part) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a part, file by file."""
    yield from part.tensors.items()
    for path in sorted({path for path, _ in part.places.values()}):
        with safe_open(path, framework="pt") as file:
            for key, (place, original) in part.places.items():
                if place == path:
                    yield key, file.get_tensor(original)


def _read_silence(folder: Path) -> tuple[Path, Tensor]:
    """The codec's latent of silence, stored as `[1, C, T]`, as `[1, T, C]`; from a safetensors file or upstream's `.pt`."""
    safe, pickled = folder / f"{SILENCE}.safetensors", folder / f"{SILENCE}.pt"
    path = safe if safe.is_file() else pickled
    try:
        if path == safe:
            with safe_open(path, framework="pt") as file:
                silence = file.get_tensor(SILENCE)
        else:
            silence = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path} cannot be read: {error}") from error
    if not isinstance(silence, Tensor) or silence.ndim != 3:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path} does not hold one tensor [1, channels, frames]")
    return path, silence.transpose(1, 2).contiguous()


def _files_below(folder: Path) -> dict[str, Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix in HASHED_SUFFIXES and path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}
