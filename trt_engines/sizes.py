# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's engines weigh, from the headers of its files: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open

from engine_server.model.layouts import Layout
from engine_server.model.recipes import Precision
from shared_protocol.errors import DemonError
from trt_engines.engine_kinds import EngineKind, ModelShape

BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "mixed": 2, "fp8": 1}
"""Of nearly every weight, in an engine as in the graph that it is built of."""
WIDE = 2560
"""Hidden size from which on a decoder is called XL."""
ENCODER, DECODER = "encoder.", "decoder."


OOBLECK = "AutoencoderOobleck"


def model_shape(layout: Layout) -> ModelShape:
    """From the configurations alone. Raises DemonError `E_CHECKPOINT_LAYOUT`."""
    decoder = layout.parts["transformer"].config
    path = layout.vae / "config.json"
    try:
        codec = msgspec.json.decode(path.read_bytes())
        is_oobleck = codec.get("_class_name") == OOBLECK
        return ModelShape(
            "xl" if int(decoder["hidden_size"]) >= WIDE else "",
            math.prod(codec["downsampling_ratios"]) if is_oobleck else None,
        )
    except (OSError, msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path} or the transformer's configuration: {error!r}") from error


def weights_of(layout: Layout, kind: EngineKind) -> int:
    """How many numbers there are in the part that an engine runs."""
    if kind.component == "decoder":
        places = layout.parts["transformer"].places.values()
        return _count((path, name) for path, name in places)
    prefix = ENCODER if kind.component == "vae_encode" else DECODER
    files = sorted(layout.vae.glob("*.safetensors"))
    return _count((path, name) for path in files for name in _names(path) if name.startswith(prefix))


def engine_bytes(weights: int, kind: EngineKind) -> int:
    """Of a built engine: its weights. What TensorRT adds is small beside them."""
    return weights * BYTES[kind.precision]


def disk_bytes(weights: int, kind: EngineKind) -> int:
    """What a build needs at most: the graph, the engine, and the one that it takes the place of."""
    return 3 * engine_bytes(weights, kind)


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _count(places: Iterable[tuple[Path, str]]) -> int:
    by_file: dict[Path, list[str]] = {}
    for path, name in places:
        by_file.setdefault(path, []).append(name)
    total = 0
    for path, names in by_file.items():
        with _opened(path) as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise DemonError("E_CHECKPOINT_LAYOUT", f"{path} cannot be read: {error}") from error
