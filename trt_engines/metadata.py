# SPDX-License-Identifier: Apache-2.0
"""The note beside each built engine: of what it was made, for which machine, and which shapes it takes.

TensorRT loads an engine of another version, GPU or set of weights badly or, worse, well. So the note is compared before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from engine_server.model.recipes import RECIPES, Precision
from shared_protocol.errors import DemonError
from trt_engines.engine_kinds import Component, EngineKind
from trt_engines.profiles import Axes

SCHEMA = 2
ANY = "any"
Sizes = dict[str, dict[int, tuple[int, int, int]]]
"""By input and dynamic axis: the least, the best and the greatest."""
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a built engine is bound to. One that was built ahead of time is bound to no name of a GPU and to no driver: "any"."""

    library: str
    """`tensorrt` or `tensorrt_rtx`."""
    library_version: str
    compute_capability: str
    """Of the GPU, as "SM90"; of several, with commas."""
    gpu: str = ANY
    driver: str = ANY

    def suits(self, field: str, here: Machine) -> bool:
        """Whether an engine that was built for this may be loaded `here`, as far as one field goes."""
        mine, theirs = getattr(self, field), getattr(here, field)
        if field == "compute_capability":
            return theirs in mine.split(",")
        return mine in (ANY, theirs)


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`metadata.json`."""

    schema: int
    component: Component
    name: str
    precision: Precision
    is_refittable: bool
    machine: Machine
    recipe: str
    """What its precision stood for."""
    calibration_hash: Hash | None
    """Of the calibration's file, if the recipe needs one."""
    checkpoint: str
    checkpoint_hash: Hash
    """Of every file that shapes the sound, so of external weights, too."""
    onnx_hash: Hash
    """Of graph and external weights."""
    inputs: Sizes
    engine_hash: Hash
    """Of the engine's own bytes: a truncated one is not loaded."""
    engine_bytes: Annotated[int, Meta(ge=0)]
    seconds: Annotated[float, Meta(ge=0)]
    """What the build took."""
    built_at: str
    """UTC, ISO 8601."""


def sizes_of(axes: Axes) -> Sizes:
    """As `Metadata.inputs`."""
    return {
        name: {axis: (span.least, span.best, span.most) for axis, span in spans.items()} for name, spans in axes.items()
    }


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Readable JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(metadata), indent=2) + b"\n")


def read_metadata(path: Path) -> Metadata:
    """Raises DemonError `E_ENGINE_FILE` for one that is missing, damaged or of another schema."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Metadata)
    except FileNotFoundError as error:
        raise DemonError(
            "E_ENGINE_FILE", f"{path} is missing: the engine beside it was not built to the end"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise DemonError("E_ENGINE_FILE", f"{path} cannot be read: {error}") from error


def differences(built: Metadata, kind: EngineKind, *, checkpoint_hash: str, calibration_hash: str | None) -> list[str]:
    """In words, why a built engine is not one of this kind of this checkpoint, whatever its machine; empty if it is."""
    here: dict[str, object] = {
        "schema": SCHEMA,
        "component": kind.component,
        "precision": kind.precision,
        "recipe": str(RECIPES[kind.precision]),
        "is_refittable": kind.is_refittable,
        "checkpoint_hash": checkpoint_hash,
        "calibration_hash": calibration_hash,
        "inputs": sizes_of(kind.axes),
    }
    return _others(built, here)


def unfit(built: Metadata, *, component: Component, checkpoint_hash: str) -> list[str]:
    """In words, why a built engine is not this component of this checkpoint by today's recipe, whatever its sizes and machine."""
    recipe = str(RECIPES[built.precision])
    here: dict[str, object] = {
        "schema": SCHEMA,
        "component": component,
        "recipe": recipe,
        "checkpoint_hash": checkpoint_hash,
    }
    return _others(built, here)


def other_machine(built: Metadata, machine: Machine) -> list[str]:
    """In words, what makes a machine another than a built engine's; empty if the engine may be loaded on it."""
    fields = [name for name in Machine.__struct_fields__ if not built.machine.suits(name, machine)]
    return [_difference(name, getattr(built.machine, name), getattr(machine, name)) for name in fields]


def _others(built: Metadata, here: Mapping[str, object]) -> list[str]:
    return [
        _difference(name, getattr(built, name), wanted)
        for name, wanted in here.items()
        if getattr(built, name) != wanted
    ]


def _difference(field: str, was: object, is_: object) -> str:
    return f"{_in_words(field)} {_short(was)}, here {_short(is_)}"


def _in_words(field: str) -> str:
    return {
        "library": "built by",
        "library_version": "built by version",
        "gpu": "built for",
        "compute_capability": "built for compute capability",
        "driver": "built with driver",
        "recipe": "built by the recipe",
        "checkpoint_hash": "built of the checkpoint",
        "calibration_hash": "built by the calibration",
        "inputs": "built for sizes",
    }.get(field, f"its {field} is")


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
