# SPDX-License-Identifier: Apache-2.0
"""ONNX files as they lie on disk: what they hold by name, whether all of it is there, and a hash of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from engine_server.model.checkpoint_files import content_hash
from shared_protocol.errors import DemonError

SHOWN = 4
"""Names that an error lists."""
LIMITS = "demon.limits"
"""A model's own property: JSON with the greatest size of an axis, by input and by axis, where there is one."""

RECIPE = "demon.recipe"
"""A model's own property: the recipe and the calibration that it was exported by, as text."""

Limits = Mapping[str, Mapping[int, int]]


def read_model(path: Path) -> onnx.ModelProto:
    """A model without what lies in other files, all of which are there and long enough.

    Raises DemonError `E_ONNX` for a file that is no ONNX model or not a whole one, naming what is missing.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise DemonError("E_ONNX", f"{path} cannot be read as ONNX: {error}; export it again") from error
    if not model.graph.node or not model.graph.output:
        raise DemonError("E_ONNX", f"{path} holds no ONNX model; export it again")
    _external_files(path, model)
    return model


def model_hash(path: Path) -> str:
    """SHA-256 over a model and the files that its weights lie in, wherever the model lies. Raises DemonError `E_ONNX`."""
    return content_hash({"model": path, **_external_files(path, read_model(path))})


def initializers(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's constants, by name. Raises DemonError `E_ONNX`."""
    return {part.name: tuple(part.dims) for part in read_model(path).graph.initializer}


def properties(path: Path) -> dict[str, str]:
    """What a model says of itself. Raises DemonError `E_ONNX`."""
    return {part.key: part.value for part in read_model(path).metadata_props}


def size_limits(path: Path) -> Limits:
    """The greatest sizes that a model was exported for: beyond them it computes nothing. Raises DemonError `E_ONNX`."""
    said = properties(path).get(LIMITS, "{}")
    try:
        return msgspec.json.decode(said, type=dict[str, dict[int, int]])
    except msgspec.DecodeError as error:
        raise DemonError("E_ONNX", f"{path} has {LIMITS} {said!r}, which is no table of sizes: {error}") from error


def check_names(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Raise DemonError `E_ONNX` unless all of `wanted` is among `found`, by name and shape. where: for the message."""
    missing = [name for name in wanted if name not in found]
    misshapen = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    said = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in (("missing", missing), ("of another shape", misshapen))
        if names
    ]
    if said:
        raise DemonError("E_ONNX", f"weights that a LoRA may change, in {where}: {'; '.join(said)}")


def _external_files(path: Path, model: onnx.ModelProto) -> dict[str, Path]:
    """The files beside a model that it takes weights from, by the name it has for them, in the order of names."""
    ends: dict[str, int] = {}
    for tensor in filter(uses_external_data, model.graph.initializer):
        info = ExternalDataInfo(tensor)
        if Path(info.location).name != info.location:
            raise DemonError("E_ONNX", f"{path} takes weights from {info.location!r}, which is not beside it")
        ends[info.location] = max(ends.get(info.location, 0), (info.offset or 0) + (info.length or 0))
    for name, end in ends.items():
        file = path.with_name(name)
        size = file.stat().st_size if file.is_file() else None
        if size is None or size < end:
            fault = "is missing" if size is None else f"has {size} bytes of {end}"
            raise DemonError("E_ONNX", f"{path} takes its weights from {file}, which {fault}; export it again")
    return {name: path.with_name(name) for name in sorted(ends)}
