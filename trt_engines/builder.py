# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to an engine in its folder, which appears there when it is whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.codec import OobleckCodec
from engine_server.model.recipes import DTYPES, RECIPES, Recipe, in_words
from shared_protocol.errors import DemonError
from trt_engines.build_engine import build_engine
from trt_engines.build_report import Built, Status, append, now
from trt_engines.calibration import NOTHING
from trt_engines.engine_folder import ENGINE, EngineFolder, file_hash
from trt_engines.engine_kinds import EngineKind
from trt_engines.export_decoder import export_decoder, refit_weights
from trt_engines.export_vae import export_vae_decoder, export_vae_encoder
from trt_engines.metadata import SCHEMA, Machine, Metadata, sizes_of
from trt_engines.onnx_files import RECIPE, check_names, initializers, model_hash, properties

Tell = Callable[[str], None]


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
        line = Built(
            timestamp=now(),
            checkpoint=folder.path.name,
            engine=kind.name,
            gpu=machine.compute_capability,
            library=f"{machine.library} {machine.library_version}",
            status=status,
            seconds=time.monotonic() - began,
            megabytes=size / 1e6,
        )
        append(folder.root, line)


def _exported(
    checkpoint: Checkpoint, folder: EngineFolder, kind: EngineKind, *, exports_anew: bool, tell: Tell
) -> Path:
    """The graph of a component in a precision, which engines of several lengths share."""
    path = folder.onnx / f"{kind.component}_{kind.precision}.onnx"
    recipe = RECIPES[kind.precision]
    is_decoder = kind.component == "decoder"
    largest = folder.largest_inputs(checkpoint.transformer, recipe) if is_decoder else NOTHING
    if path.is_file() and not exports_anew and _is_made_by(path, recipe, largest):
        return path
    tell(f"{kind.name}: exporting {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_decoder:
        export_decoder(checkpoint.transformer, path, recipe=recipe, largest_inputs=largest)
        check_names(initializers(path), refit_weights(checkpoint.transformer, recipe), where=path.name)
    else:
        assert isinstance(checkpoint.codec, OobleckCodec)
        export = export_vae_encoder if kind.component == "vae_encode" else export_vae_decoder
        export(checkpoint.codec.vae, path, dtype=DTYPES[recipe.trunk])
    return path


def _is_made_by(path: Path, recipe: Recipe, largest_inputs: Mapping[str, float]) -> bool:
    """Whether exporting again would give the same graph. What cannot be read is exported again."""
    try:
        return properties(path).get(RECIPE) == in_words(recipe, largest_inputs)
    except DemonError:
        return False
