# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: everything of a model that is loaded once and shared by all tracks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Model

from engine_server.diffusion.decoder import Decoder
from engine_server.model.aside import Aside
from engine_server.model.backends import Choice, make_decoder
from engine_server.model.checkpoint_files import CheckpointFiles, Settings, find_checkpoint
from engine_server.model.codec import Codec, load_codec
from engine_server.model.conditioning import Condition, Conditioner
from engine_server.model.layouts import TOKENIZERS, build, check_keys
from engine_server.model.lora import AdapterBank
from engine_server.model.memory import too_large
from engine_server.model.placement import Placement, open_device, placement
from engine_server.model.structure import Structure
from engine_server.model.track_sizes import TrackSizes
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from trt_engines.engine_decoder import EngineDecoder
    from trt_engines.engine_decoders import EngineDecoders
    from trt_engines.open_engines import OpenEngines


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
    choice: Choice
    """Its name, and why it was chosen."""
    adapters: AdapterBank
    codec: Codec
    conditioner: Conditioner
    structure: Structure
    silence: Tensor
    """The codec's latent of digital silence, `[C]`."""
    engines: OpenEngines | None
    """Its TensorRT engines, if its decoder is one."""

    @cached_property
    def aside(self) -> Aside:
        """Where finished latents are decoded, beside what is computed next."""
        return Aside(self.placement.device)

    @property
    def track_sizes(self) -> TrackSizes:
        """Of the forward that tracks meet."""
        return TrackSizes.of(self.settings, width=self.condition_width, channels=self.codec.latent_channels)

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
    backend: str = "eager",
    quantization: str | None = None,
    engine: str | None = None,
    companions: str | None = None,
) -> Checkpoint:
    """Find a checkpoint and load it, for one backend by name; `auto` is decided by `load_chosen`.

    name, companions: see `find_checkpoint`. device, dtype: see `placement`. The rest, and what it raises: see `load_found`, and
    DemonError as those two.
    """
    place = placement(device, dtype)
    return load_found(
        find_checkpoint(name, companions), place, backend=backend, quantization=quantization, engine=engine
    )


def load_found(
    files: CheckpointFiles,
    place: Placement,
    *,
    backend: str,
    quantization: str | None = None,
    engine: str | None = None,
    reason: str | None = None,
) -> Checkpoint:
    """Load a checkpoint that was found.

    backend, quantization: see `make_decoder`. engine: path of the decoder's TensorRT engine, for that backend; None takes those
    that `demon engines build` has made of it (`OpenEngines.own_decoder`). With an engine the transformer stays on the CPU.
    reason: why this backend, if it was not asked for by name.

    Raises DemonError: `E_CHECKPOINT_LAYOUT` if it cannot be read, `E_CHECKPOINT_KEYS` if weights do not fit the model,
    `E_BACKEND`, `E_MEMORY` if it does not fit on the GPU, for an engine those of `OpenEngines`.

    On CUDA it sets, for the process, that cuDNN computes float32 as float32 (see `spectral_codec`) and always alike.
    """
    open_device(place)
    choice = Choice(backend, reason or f"{backend}: asked for by name")
    try:
        return _load(files, place, choice, quantization=quantization, engine=engine)
    except torch.OutOfMemoryError as error:
        # Without the traceback, whose frames hold what was loaded.
        raise too_large(files.local, files.layout, place, error) from error.with_traceback(None)


def open_engines(files: CheckpointFiles, place: Placement) -> OpenEngines:
    """Its TensorRT engines, of which nothing is loaded yet."""
    from trt_engines.open_engines import OpenEngines  # which needs what is loaded here

    return OpenEngines(files.name, files.content_hash, place.device)


def _engine_of(files: CheckpointFiles, opened: OpenEngines, engine: str | None) -> EngineDecoder | EngineDecoders:
    if engine is not None:
        return opened.decoder(engine)
    return opened.own_decoder(files.layout, frames=files.settings.geometry.window)


def _load(
    files: CheckpointFiles, place: Placement, choice: Choice, *, quantization: str | None, engine: str | None
) -> Checkpoint:
    layout, settings = files.layout, files.settings
    needed = files.needed_parts()
    # Before minutes are spent on weights that nothing would run.
    opened = open_engines(files, place) if choice.backend == "tensorrt" else None
    run = None if opened is None else _engine_of(files, opened, engine)
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
        name=files.local,
        content_hash=files.content_hash,
        settings=settings,
        placement=place,
        is_turbo=files.is_turbo,
        model_version=str(layout.parts["transformer"].config.get("model_version") or "unknown"),
        timbre_cls_token=timbre_cls_token,
        condition_width=condition_width,
        transformer=transformer,
        decoder=decoder,
        backend=_in_words(choice.backend, place, quantization if run is None else run.precision),
        choice=choice,
        adapters=adapters,
        codec=codec,
        conditioner=Conditioner(
            tokenizer,
            text_encoder,
            condition_encoder,
            condition_tokens=settings.condition_tokens,
            timbre_cls_token=timbre_cls_token,
            turbo=files.is_turbo,
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
