# SPDX-License-Identifier: Apache-2.0
"""What runs the decoder here: TensorRT and its engines, and which backend `auto` takes and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine_server.doctor.finding import Finding, ok, warn
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.model.auto_backend import Ground
    from engine_server.model.checkpoint import Checkpoint
    from trt_engines.own_engines import OwnEngine
    from trt_engines.tensorrt_library import TensorRt


def look_at(model: str, device: str, lora_folders: Sequence[Path]) -> Ground:
    """What `auto` would choose from. Nothing is loaded. Raises DemonError as `load_chosen`."""
    from engine_server.model.auto_backend import survey
    from engine_server.model.checkpoint_files import find_checkpoint
    from engine_server.model.placement import placement
    from engine_server.tracks.lora_catalogue import offers_loras

    place = placement(device, None)
    return survey(find_checkpoint(model), place, offers_loras=offers_loras(model, lora_folders))


def load(ground: Ground) -> Checkpoint:
    """The checkpoint as `auto` would load it now, measuring nothing. Raises DemonError as `load_chosen`."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from engine_server.model.auto_backend import load_best
    from engine_server.model.backend_record import read_record

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    return load_best(ground, read_record(ground.key))


def check_tensorrt(ground: Ground) -> list[Finding]:
    """TensorRT can build for this GPU, and the checkpoint's engines are there and up to date."""
    from engine_server.model.checkpoint import open_engines
    from trt_engines.tensorrt_library import load_tensorrt

    try:
        library = load_tensorrt()
    except DemonError as error:
        if ground.place.device.type == "cpu":
            return [ok("tensorrt", "not installed; it computes on a GPU, and the engine does not here")]
        return [warn("tensorrt", error.message, "nothing, if the other backends are fast enough")]
    named = f"{library.name} {library.version}"
    if ground.place.device.type == "cpu":
        return [ok("tensorrt", f"{named}; it computes on a GPU, and the engine does not here")]
    findings = [_check_gpu(named, library, ground)]
    try:
        return findings + _check_engines(open_engines(ground.files, ground.place).look(ground.files.layout))
    except DemonError as error:
        return [*findings, warn("tensorrt", str(error), "nothing, if the other backends are fast enough")]


def check_backend(ground: Ground, *, measures: bool) -> list[Finding]:
    """Which backend `auto` takes. measures: measure all of them first, and keep that; else nothing is measured."""
    from engine_server.model.auto_backend import command, is_settled, measure_anew, ranking, reason
    from engine_server.model.backend_record import read_record

    record = measure_anew(ground) if measures else read_record(ground.key)
    if not is_settled(ground, record):
        return [
            ok("backend", f"auto measures tensorrt and eager when the engine starts next, or now: {command(ground)}")
        ]
    chosen = ranking(ground, record)[0]
    return [ok("backend", f"auto takes {reason(ground, record, chosen)}")]


def _check_gpu(named: str, library: TensorRt, ground: Ground) -> Finding:
    from trt_engines.machine_here import capability
    from trt_engines.targets import capabilities

    here, known = capability(ground.place.device), capabilities(library)
    if not known:
        return ok("tensorrt", f"{named} builds for the GPU that it runs on ({here})")
    if here not in known:
        advice = "take the eager or the compile backend, or a TensorRT-RTX that knows this GPU"
        return warn("tensorrt", f"{named} builds for {', '.join(known)}, and this GPU is {here}", advice)
    return ok("tensorrt", f"{named} builds for this GPU ({here})")


def _check_engines(engines: Sequence[OwnEngine]) -> list[Finding]:
    """Of those that were built; if none was, which is to be."""
    findings = []
    for one in engines:
        if one.refusal is None:
            findings.append(ok("tensorrt", f"{one.kind.name}: windows of up to {one.kind.duration_s:g} s"))
        elif one.refusal.code != "E_ENGINE_NOT_BUILT":
            findings.append(_refused(one.refusal))
    return findings or [_refused(one.refusal) for one in engines[:1] if one.refusal is not None]


def _refused(error: DemonError) -> Finding:
    """Its message ends with the command that mends it."""
    what, _, todo = error.message.rpartition("un: ")
    return warn("tensorrt", what.rstrip("rR; ."), f"run: {todo}")
