# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to engines in their folder: what is there and up to date stays, each other one appears when it is whole."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.codec import OobleckCodec
from shared_protocol.errors import DemonError
from trt_engines.build_engine import build_engine
from trt_engines.build_report import Built, Status, append, now
from trt_engines.engine_folder import ENGINE, EngineFolder, file_hash
from trt_engines.engine_kinds import EngineKind
from trt_engines.export_decoder import export_decoder, in_words, refit_weights
from trt_engines.export_vae import export_vae_decoder, export_vae_encoder
from trt_engines.metadata import SCHEMA, Machine, Metadata, read_metadata, sizes_of
from trt_engines.onnx_files import RECIPE, check_names, initializers, model_hash, properties
from trt_engines.recipe_linears import NOTHING
from trt_engines.recipes import RECIPES, Recipe

FIRST_FP8 = 89
"""The compute capability, times ten, of the first GPUs with FP8: Ada."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Needed:
    """What is to be done for one engine. reason: in words, empty if it is up to date."""

    kind: EngineKind
    reason: str


def needed(
    folder: EngineFolder, kinds: Sequence[EngineKind], machine: Machine, *, is_forced: bool = False
) -> list[Needed]:
    """Which of the engines have to be built, and why.

    Raises DemonError: `E_CALIBRATION` if one needs a calibration that is not there, `E_FIELD` for FP8 on a GPU that has none.
    """
    for kind in kinds:
        _check_gpus(kind, machine)
        folder.calibration_hash(kind)
    return [Needed(kind, "asked for" if is_forced else _reason(folder, kind, machine)) for kind in kinds]


def check_disk(path: Path, needed_bytes: int) -> None:
    """Raise DemonError `E_DISK` unless so much is free where engines will lie."""
    there = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise DemonError(
            "E_DISK",
            f"{there} has {free / 1e9:.1f} GB free, and the engines need {needed_bytes / 1e9:.1f} GB; make room, build fewer, or "
            f"set XDG_DATA_HOME to another disk",
        )


def build(
    checkpoint: Checkpoint,
    folder: EngineFolder,
    kind: EngineKind,
    machine: Machine,
    *,
    exports_anew: bool = False,
    tell: Tell = lambda _: None,
) -> Metadata:
    """Export if there is no graph yet, build, and put the engine in its place. An interrupted one leaves what was there.

    Raises DemonError: see `EngineFolder.largest_inputs`, `export_decoder`, `export_vae_encoder` and `build_engine`.
    """
    began, size = time.monotonic(), 0
    status: Status = "failed"
    try:
        onnx = _exported(checkpoint, folder, kind, exports_anew=exports_anew, tell=tell)
        with folder.unfinished() as place:
            built = place / kind.name
            built.mkdir()
            tell(f"{kind.name}: building for {machine.compute_capability}")
            names = machine.compute_capability.split(",")
            size = build_engine(
                onnx,
                built / ENGINE,
                kind.axes,
                compute_capabilities=names,
                refittable=refit_weights(checkpoint.transformer, RECIPES[kind.precision]) if kind.is_refittable else (),
            )
            note = Metadata(
                schema=SCHEMA,
                component=kind.component,
                name=kind.name,
                precision=kind.precision,
                is_refittable=kind.is_refittable,
                recipe=str(RECIPES[kind.precision]),
                calibration_hash=folder.calibration_hash(kind),
                machine=machine,
                checkpoint=folder.checkpoint,
                checkpoint_hash=folder.checkpoint_hash,
                onnx_hash=model_hash(onnx),
                inputs=sizes_of(kind.axes),
                engine_hash=file_hash(built / ENGINE),
                engine_bytes=size,
                seconds=time.monotonic() - began,
                built_at=now(),
            )
            folder.publish(kind, built, note)
        status = "built"
        return note
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        library = f"{machine.library} {machine.library_version}"
        line = Built(
            now(), kind.name, machine.compute_capability, library, status, time.monotonic() - began, size / 1e6
        )
        append(folder.root, line)


def _reason(folder: EngineFolder, kind: EngineKind, machine: Machine) -> str:
    if not folder.has(kind):
        return "not built yet"
    try:
        built = read_metadata(folder.note(kind))
    except DemonError as error:
        return error.message
    if built.machine != machine:
        return (
            f"built for {built.machine.compute_capability} by {built.machine.library} {built.machine.library_version}"
        )
    return "; ".join(folder.differences(built, kind, machine))


def _exported(
    checkpoint: Checkpoint, folder: EngineFolder, kind: EngineKind, *, exports_anew: bool, tell: Tell
) -> Path:
    """The graph of a component in a precision, which engines of several lengths share."""
    path = folder.onnx / f"{kind.component}_{kind.precision}.onnx"
    recipe = RECIPES[kind.precision]
    is_decoder = kind.component == "decoder"
    largest = folder.largest_inputs(checkpoint.transformer, recipe) if is_decoder else NOTHING
    if path.is_file() and not exports_anew and (not is_decoder or _is_made_by(path, recipe, largest)):
        return path
    tell(f"{kind.name}: exporting {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_decoder:
        export_decoder(checkpoint.transformer, path, recipe=recipe, largest_inputs=largest)
        check_names(initializers(path), refit_weights(checkpoint.transformer, recipe), where=path.name)
    else:
        assert isinstance(checkpoint.codec, OobleckCodec)
        export = export_vae_encoder if kind.component == "vae_encode" else export_vae_decoder
        export(checkpoint.codec.vae, path, dtype=torch.float16)
    return path


def _is_made_by(path: Path, recipe: Recipe, largest_inputs: Mapping[str, float]) -> bool:
    """Whether exporting again would give the same graph. What cannot be read is exported again."""
    try:
        return properties(path).get(RECIPE) == in_words(recipe, largest_inputs)
    except DemonError:
        return False


def _check_gpus(kind: EngineKind, machine: Machine) -> None:
    if kind.precision == "fp8":
        for name in machine.compute_capability.split(","):
            number = name.removeprefix("SM")
            if number.isdigit() and int(number) < FIRST_FP8:
                raise DemonError(
                    "E_FIELD", f"{name} has no FP8: that begins with SM{FIRST_FP8}; build for it with --precision mixed"
                )
