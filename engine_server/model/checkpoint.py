# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: everything of a model that is loaded once and shared by all tracks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Model

from engine_server.diffusion.decoder import Decoder
from engine_server.diffusion.schedule import MAX_STEPS
from engine_server.model.backends import choose_backend, make_decoder
from engine_server.model.codec import Codec, load_codec
from engine_server.model.conditioning import Condition, Conditioner
from engine_server.model.hub import checkpoint_folder, companions_folder
from engine_server.model.layouts import TOKENIZERS, Layout, build, check_keys, read_layout
from engine_server.model.lora import AdapterBank
from engine_server.model.memory import too_large
from engine_server.model.placement import Placement, compute_alike, placement
from engine_server.model.structure import Structure
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from trt_engines.open_engines import OpenEngines

EMBEDDED = "embedded"
ASSETS = Path(__file__).parents[1] / "assets"
CODE_FRAMES = 5
"""Latent frames per code of the 5 Hz tokenizer."""


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default spans of a window in frames: past, hop and lookahead, and the crossfade between hops."""

    hop: Annotated[int, Meta(ge=2, le=250)] = 50
    past: Annotated[int, Meta(ge=0, le=5000)] = 100
    lookahead: Annotated[int, Meta(ge=2, le=250)] = 50
    crossfade: Annotated[int, Meta(ge=0, le=250)] = 10


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`demon.json` of a checkpoint folder; its defaults suit ACE-Step v1.5 turbo."""

    cover_context: Literal["raw", "tokenizer"] = "tokenizer"
    """What the decoder sees as a cover's context: raw codec latents, or the 5 Hz tokenizer's hints."""
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 8
    shift: Annotated[float, Meta(gt=0.0, le=20.0)] = 3.0
    condition_tokens: Annotated[int, Meta(ge=8, le=4096)] = 256
    """Length that conditions are padded to."""
    geometry: Geometry = Geometry()
    dcw: bool = True
    """Whether a `Session` corrects generations in wavelet bands (`DcwSettings`) where nothing is said of it; tracks take what
    the lanes `dcw_*` say, whose default is none. The correction moves each step away from the model's estimate. The reference
    engine applies it to ACE-Step turbo; where an estimate is rough, as `embedded`'s is, it takes the notes away."""
    timbre_cls_token: bool | None = None
    """Whether the timbre encoder reads its learned token before a clip. None: if decoder and condition differ in width (XL)."""

    def __post_init__(self) -> None:
        spans = (self.geometry.hop, self.geometry.past, self.geometry.lookahead)
        if self.cover_context == "tokenizer" and any(span % (2 * CODE_FRAMES) for span in spans):
            raise ValueError(
                f"with the tokenizer, hop, past and lookahead must be multiples of {2 * CODE_FRAMES} frames"
            )


TURBO_SETTINGS = Settings()
UNDISTILLED_SETTINGS = Settings(steps=50, shift=1.0, dcw=False)
"""For base and sft checkpoints, which were not distilled to few steps."""


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """The parts of a loaded model. Inference only; one thread at a time."""

    name: str
    content_hash: str
    """SHA-256 of the files that shape the sound."""
    settings: Settings
    placement: Placement
    is_turbo: bool
    """Distilled to few steps and to no guidance."""
    model_version: str
    timbre_cls_token: bool
    condition_width: int
    """E."""
    transformer: Any
    """diffusers' own module, with the weights that the decoder uses, or was quantised from."""
    decoder: Decoder
    backend: str
    """What runs the decoder, in words: part of every receipt."""
    adapters: AdapterBank
    codec: Codec
    conditioner: Conditioner
    structure: Structure
    silence: Tensor
    """The codec's latent of digital silence, `[C]`."""
    engines: OpenEngines | None
    """Its TensorRT engines, if its decoder is one."""

    def condition(self, prompt: str, **details: Any) -> Condition:
        """The encoded and padded prompt, `[1, L, E]`, with details as for `Conditioner.encode`; recent ones are remembered."""
        return self.conditioner.encode_padded(prompt, **details)

    def context(self, source: Tensor) -> Tensor:
        """The decoder's context of a cover, `[T, 2C]`, from source latents `[T, C]`."""
        return self.structure.cover_context(self.structure.hints(source))


def load_checkpoint(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    backend: str = "auto",
    quantization: str | None = None,
    engine: str | None = None,
    companions: str | None = None,
) -> Checkpoint:
    """Load a checkpoint in either layout: `embedded`, a folder, or `owner/repository[/folder]` of a hub.

    device, dtype: see `placement`. backend, quantization: see `make_decoder`. engine: path of the decoder's TensorRT engine, for
    that backend; the transformer then stays on the CPU. companions: folder or hub name with the `vae` and `Qwen3-Embedding-0.6B`
    of an original checkpoint that has none beside it.

    Raises DemonError: `E_NO_CHECKPOINT` if there is no such folder and none can be had, `E_CHECKPOINT_LAYOUT` if it cannot be
    read, `E_CHECKPOINT_PARTS` if companions are not found, `E_CHECKPOINT_KEYS` if weights do not fit the model, `E_DEVICE`,
    `E_DTYPE`, `E_BACKEND`, `E_MEMORY` if it does not fit on the GPU, for an engine those of `OpenEngines.decoder`.

    On CUDA it sets, for the process, that cuDNN computes float32 as float32 (see `spectral_codec`) and always alike.
    """
    place = placement(device, dtype)
    compute_alike(place)
    folder = ASSETS / EMBEDDED if name == EMBEDDED else checkpoint_folder(name)
    layout = read_layout(folder, None if companions is None else companions_folder(companions))
    local = folder.resolve().name if Path(name).expanduser().is_dir() else name.rstrip("/").rpartition("/")[2]
    opened = _open_engines(name, layout, place) if backend == "tensorrt" else None
    try:
        return _load(local, layout, place, backend=backend, quantization=quantization, opened=opened, engine=engine)
    except torch.OutOfMemoryError as error:
        raise too_large(local, layout, place, error) from error.with_traceback(
            None
        )  # whose frames hold what was loaded


def content_hash(files: Mapping[str, Path]) -> str:
    """SHA-256 over labels and bytes of files, in the order given."""
    digest = hashlib.sha256()
    for label, path in files.items():
        digest.update(label.encode() + b"\0")
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _open_engines(name: str, layout: Layout, place: Placement) -> OpenEngines:
    from trt_engines.open_engines import OpenEngines  # which needs what is loaded here

    return OpenEngines(name, content_hash(layout.files), place.device)


def _load(
    name: str,
    layout: Layout,
    place: Placement,
    *,
    backend: str,
    quantization: str | None,
    opened: OpenEngines | None,
    engine: str | None,
) -> Checkpoint:
    decoder_config = layout.parts["transformer"].config
    is_turbo = bool(decoder_config.get("is_turbo", False))
    settings = _read_settings(layout.folder, is_turbo=is_turbo)
    needed = ["transformer", "condition_encoder", *(TOKENIZERS if settings.cover_context == "tokenizer" else ())]
    if absent := [part for part in needed if part not in layout.parts]:
        raise DemonError(
            "E_CHECKPOINT_LAYOUT",
            f'{layout.folder} lacks {" and ".join(absent)}; one that has no 5 Hz tokenizer says "cover_context": "raw" '
            f"in demon.json",
        )
    # Before minutes are spent on weights that nothing would run.
    run = None if opened is None or engine is None else opened.decoder(engine)
    # LoRAs are merged with what an engine was built of: the weights as their file has them.
    merged = None if run is None else "transformer"
    modules = {
        part: build(
            part,
            layout.parts[part],
            device=torch.device("cpu") if part == merged else place.device,
            dtype=torch.float32 if part in TOKENIZERS else None if part == merged else place.dtype,
        )
        for part in needed
    }
    transformer, condition_encoder = modules["transformer"], modules["condition_encoder"]
    silence = condition_encoder.silence_latent[0]
    condition_width = int(condition_encoder.config.hidden_size)
    is_wider = int(transformer.config.hidden_size) != condition_width
    timbre_cls_token = is_wider if settings.timbre_cls_token is None else settings.timbre_cls_token
    adapters = AdapterBank()
    adapters.to(place.device, place.dtype if run is None else torch.float32)
    if run is not None:
        run.adapt(transformer, place.device)
    try:
        choice = choose_backend(backend, device=place.device)
        decoder = make_decoder(
            transformer,
            backend=choice.backend,
            adapters=adapters,
            quantization=quantization,
            engine=None if run is None else lambda: run,
        )
    except ValueError as error:
        raise DemonError("E_BACKEND", str(error)) from error
    try:
        text_encoder = _load_text_encoder(layout.text_encoder, place)
        tokenizer = AutoTokenizer.from_pretrained(layout.tokenizer, local_files_only=True)
        codec = load_codec(layout.vae, place.device)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{layout.folder} cannot be loaded: {error}") from error
    return Checkpoint(
        name=name,
        content_hash=content_hash(layout.files),
        settings=settings,
        placement=place,
        is_turbo=is_turbo,
        model_version=str(decoder_config.get("model_version") or "unknown"),
        timbre_cls_token=timbre_cls_token,
        condition_width=condition_width,
        transformer=transformer,
        decoder=decoder,
        backend=_in_words(choice.backend, place, quantization if run is None else run.precision),
        adapters=adapters,
        codec=codec,
        conditioner=Conditioner(
            tokenizer,
            text_encoder,
            condition_encoder,
            condition_tokens=settings.condition_tokens,
            timbre_cls_token=timbre_cls_token,
            turbo=is_turbo,
        ),
        structure=Structure(modules.get(TOKENIZERS[0]), modules.get(TOKENIZERS[1]), silence),
        silence=silence[0],
        engines=opened,
    )


def _in_words(backend: str, place: Placement, quantization: str | None) -> str:
    dtype = str(place.dtype).removeprefix("torch.")
    return f"{backend} {place.device.type} {quantization or dtype}"


def _load_text_encoder(folder: Path, place: Placement) -> Any:
    """The text encoder, with every weight from the file; weights of a language model's head may be left over."""
    loaded: Any = Qwen3Model.from_pretrained(
        folder, dtype=place.dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    model, info = loaded
    check_keys("the text encoder", missing=sorted(info["missing_keys"]))
    return model.to(place.device).eval().requires_grad_(False)


def _read_settings(folder: Path, *, is_turbo: bool) -> Settings:
    path = folder / "demon.json"
    if not path.exists():
        return TURBO_SETTINGS if is_turbo else UNDISTILLED_SETTINGS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path}: {error}") from error
