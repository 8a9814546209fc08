# SPDX-License-Identifier: Apache-2.0
"""LoRA files: safetensors as PEFT, diffusers, kohya and ComfyUI trainers write them, read into factors by Linear.

The dialects differ in the names of modules (diffusers' or the original model's, dotted or joined by underscores, behind some
prefix), in the names of the two factors, and in where alpha is kept. Names are looked up among those the model has, in
every spelling; a key that finds no place is an error, never dropped. All but the numbers is checked from the header alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine_server.model.lora import Pair, Shapes
from engine_server.model.lora_config import ADAPTER_CONFIG, LoraConfig, alpha_number, read_config
from shared_protocol.errors import DemonError

FOLDER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""What PEFT and diffusers call the file in a folder that is named after the LoRA."""
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
NUMBERS = ("F64", "F32", "F16", "BF16")
WHOLE = ("I64", "I32")
"""Types that an alpha may have besides: trainers store a whole number as it was given."""
SHOWN = 4
"""Keys that an error lists."""

_FACTOR = re.compile(r"(.+)\.(?:(lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)(?:\.[^.]+)?\.weight")
_WRAPPER = re.compile(
    r"(base_model\.model\.|transformer\.|diffusion_model\.|lora_unet_|lora_transformer_|lycoris_)?(.+)"
)
_ORIGINAL_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "a convolution's LoRA",
    "lora_embedding": "an embedding's LoRA",
    "modules_to_save": "whole modules",
    ".bias": "a bias",
    ".diff": "whole differences of weights",
}
_SIZES = {2048: "2B", 6144: "2B", 2560: "XL", 4096: "XL", 9728: "XL"}
"""In-features of the Linears of ACE-Step v1.5, and the model size they tell. (XL has one of 2048 too, 2B none of XL's.)"""


@dataclass(frozen=True)
class LoraFactors:
    """A LoRA in float32, ready for an `AdapterBank`."""

    factors: Mapping[str, Pair]
    """`(down [r, in], up [out, r])` by the Linear's module path in diffusers' transformer; `up` holds its scale."""
    rank: int
    """The largest of the Linears' ranks."""
    alpha: float
    """The largest of the Linears' alphas."""
    content_hash: str
    metadata: Mapping[str, str]
    """What the file says of itself, and `alpha_source`: where alpha was found, or that there was none."""


@dataclass(frozen=True)
class Entry:
    """The keys of one Linear in a file."""

    name: str
    """Its module path in diffusers' transformer."""
    module: str
    """Its module path as the file has it, without the dialect's prefix."""
    down: str
    up: str
    alpha: str | None
    rank: int


@dataclass(frozen=True)
class LoraHeader:
    """All of a LoRA file but its numbers, found to fit the model."""

    path: Path
    entries: tuple[Entry, ...]
    config: LoraConfig
    metadata: Mapping[str, str]

    @property
    def rank(self) -> int:
        """The largest of the Linears' ranks."""
        return max(entry.rank for entry in self.entries)


@dataclass
class _Module:
    """What a file holds of one module: key and shape of its factors, key of its alpha."""

    down: dict[str, tuple[int, ...]] = field(default_factory=dict)
    up: dict[str, tuple[int, ...]] = field(default_factory=dict)
    alpha: list[str] = field(default_factory=list)


def lora_file(path: Path) -> Path:
    """The safetensors file of a LoRA given as a file, or as a PEFT or diffusers folder. Raises DemonError `E_LORA_FILE`."""
    files = [path / name for name in FOLDER_FILES if (path / name).is_file()] if path.is_dir() else [path]
    if len(files) != 1:
        raise DemonError("E_LORA_FILE", f"{path}: a LoRA folder holds one of {' and '.join(FOLDER_FILES)}")
    return files[0]


def read_header(path: Path, targets: Shapes) -> LoraHeader:
    """A LoRA's header, checked against the model's Linears. Reads no weights.

    Raises DemonError, naming file, key and shapes: `E_LORA_FILE` (unreadable, or not safetensors), `E_LORA_KIND` (something
    other than a LoRA of Linears), `E_LORA_SHAPE` (a factor missing, ranks that disagree, or made for a model of another
    size), `E_LORA_NAMES` (modules that the model does not have).
    """
    path = lora_file(path)
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        shapes = {key: tuple(int(size) for size in part.get_shape()) for key, part in slices.items()}
        types = {key: str(part.get_dtype()) for key, part in slices.items()}
        metadata: dict[str, str] = dict(file.metadata() or {})
    taken = {key: (*NUMBERS, *WHOLE) if key.endswith(".alpha") else NUMBERS for key in types}
    if coded := [key for key, kind in types.items() if kind not in taken[key]]:
        raise DemonError(
            "E_LORA_KIND", f"{path}: {coded[0]} is stored as {types[coded[0]]}; {', '.join(taken[coded[0]])} are taken"
        )
    modules = _modules(path, shapes)
    entries = _entries(path, modules, targets)
    is_peft = all(_WRAPPER.fullmatch(module)[1] in ("base_model.model.", None) for module in modules)  # type: ignore[index]
    config = read_config(path, metadata, is_peft=is_peft)
    for entry in entries:
        rank = config.rank(entry.module)
        if rank not in (None, entry.rank):
            raise DemonError(
                "E_LORA_SHAPE", f"{path}: {entry.down} has rank {entry.rank}, and {config.source} says {rank}"
            )
    return LoraHeader(path, entries, config, metadata)


def read_lora(path: Path, targets: Shapes) -> LoraFactors:
    """A LoRA's factors in float32. Raises DemonError as `read_header` does, and `E_NOT_FINITE` for NaN or infinity."""
    header = read_header(path, targets)
    factors: dict[str, Pair] = {}
    alphas: list[float] = []
    with _opened(header.path) as file:
        for entry in header.entries:
            stored = (
                None if entry.alpha is None else alpha_number(header.path, entry.alpha, file.get_tensor(entry.alpha))
            )
            alpha, scale = header.config.alpha_and_scale(entry.module, entry.rank, stored)
            # Copies: a file that changes under a memory map would change the sound, or end the process.
            down = file.get_tensor(entry.down).to(torch.float32, copy=True)
            up = file.get_tensor(entry.up).to(torch.float32) * scale
            for key, factor in ((entry.down, down), (entry.up, up)):
                if not torch.isfinite(factor).all():
                    raise DemonError("E_NOT_FINITE", f"{header.path}: {key} holds NaN or infinity")
            factors[entry.name] = (down, up)
            alphas.append(alpha)
    has_tensors = any(entry.alpha is not None for entry in header.entries)
    metadata = {**header.metadata, "alpha_source": "tensors" if has_tensors else header.config.source}
    return LoraFactors(factors, header.rank, max(alphas), content_hash(header), metadata)


def content_hash(header: LoraHeader) -> str:
    """SHA-256 over the file's bytes, followed by those of its `adapter_config.json` where that gives the scale."""
    digest = hashlib.sha256()
    beside = [header.path.with_name(ADAPTER_CONFIG)] if header.config.source == ADAPTER_CONFIG else []
    for path in (header.path, *beside):
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DemonError("E_LORA_FILE", f"{path}: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix in PICKLES:
        raise DemonError(
            "E_LORA_FILE", f"{path} is a pickle, which can run code when it is read: convert it to safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise DemonError("E_LORA_FILE", f"{path} cannot be read as safetensors: {error}") from error


def _modules(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Module]:
    """The keys by the module that they belong to, as the file spells it."""
    modules: dict[str, _Module] = {}
    for key, shape in shapes.items():
        if match := _FACTOR.fullmatch(key):
            module = modules.setdefault(match[1], _Module())
            (module.down if match[2] else module.up)[key] = shape
        elif key.endswith(".alpha"):
            modules.setdefault(key.removesuffix(".alpha"), _Module()).alpha.append(key)
        else:
            kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in key), "no LoRA key")
            raise DemonError("E_LORA_KIND", f"{path}: {key} is {kind}; only LoRA of Linears is taken")
    if not any(module.down or module.up for module in modules.values()):
        raise DemonError("E_LORA_KIND", f"{path} holds no LoRA keys")
    return modules


def _entries(path: Path, modules: Mapping[str, _Module], targets: Shapes) -> tuple[Entry, ...]:
    spellings = _spellings(targets)
    found: dict[str, Entry] = {}
    unknown: list[str] = []
    theirs = _size(shape[1] for module in modules.values() for shape in module.down.values() if len(shape) == 2)
    ours = _size(width for _, width in targets.values())
    made_for = f": it was made for ACE-Step {theirs}, and this is {ours or 'another model'}"
    hint = made_for if theirs not in ("", ours) else ""
    for spelling, module in modules.items():
        down, up, rank = _factors(path, spelling, module)
        bare = _WRAPPER.fullmatch(spelling)[2]  # type: ignore[index]  # always matches
        name = spellings.get(re.sub(r"^decoder[._]", "", bare))
        if name is None:
            unknown.append(spelling)
            continue
        if name in found:
            raise DemonError("E_LORA_NAMES", f"{path}: {found[name].down} and {down} both change {name}")
        shape = (module.up[up][0], module.down[down][1])
        if shape != targets[name]:
            raise DemonError(
                "E_LORA_SHAPE",
                f"{path}: {spelling} changes a weight of shape {list(shape)}, and {name} is {list(targets[name])}{hint}",
            )
        found[name] = Entry(name, bare, down, up, next(iter(module.alpha), None), rank)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise DemonError("E_LORA_NAMES", f"{path}: the model has no {', '.join(unknown[:SHOWN])}{more}")
    return tuple(found[name] for name in sorted(found))


def _factors(path: Path, spelling: str, module: _Module) -> tuple[str, str, int]:
    """The module's two keys and their rank."""
    for factor, keys in (("down (A)", module.down), ("up (B)", module.up)):
        if not keys:
            raise DemonError("E_LORA_SHAPE", f"{path}: {spelling} lacks its {factor} factor")
        if len(keys) > 1:
            raise DemonError("E_LORA_NAMES", f"{path}: {' and '.join(keys)} are both the {factor} factor of one module")
    (down, down_shape), (up, up_shape) = next(iter(module.down.items())), next(iter(module.up.items()))
    if len(down_shape) != 2 or len(up_shape) != 2:
        raise DemonError(
            "E_LORA_KIND", f"{path}: {down} {list(down_shape)} and {up} {list(up_shape)} belong to a convolution"
        )
    if down_shape[0] != up_shape[1] or down_shape[0] == 0:
        raise DemonError(
            "E_LORA_SHAPE", f"{path}: {down} {list(down_shape)} and {up} {list(up_shape)} disagree about the rank"
        )
    return down, up, down_shape[0]


def _spellings(targets: Shapes) -> dict[str, str]:
    """Names of the model's Linears by every spelling: diffusers' or the original, with dots or underscores."""
    spellings: dict[str, str] = {}
    for name in targets:
        original = name
        for ours, theirs in _ORIGINAL_NAMES.items():
            original = re.sub(rf"\.{re.escape(ours)}$", f".{theirs}", original)
        for spelling in (name, original):
            spellings[spelling] = spellings[spelling.replace(".", "_")] = name
    return spellings


def _size(widths: Iterable[int]) -> str:
    """The size of ACE-Step v1.5 that has Linears of these in-features, or "" for another model."""
    return max((_SIZES[width] for width in widths if width in _SIZES), default="")
