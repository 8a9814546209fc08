# SPDX-License-Identifier: Apache-2.0
"""Receipts: what went into a bounce and what came out, as hashes, so that two renders can be compared at a glance."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata

import msgspec
import numpy as np

from engine_server import __version__
from engine_server.tracks.curves import CurveTable
from shared_protocol import PROTOCOL_VERSION
from shared_protocol.codec import Floats
from shared_protocol.messages import Config


class Receipt(msgspec.Struct, frozen=True):
    """Equal receipts mean equal bits. `config` names references and LoRAs by their hashes.

    kind: `stream` or `commit`. `result_sha256` is over the float32 samples, planar, without a file header.
    """

    demon: str
    protocol: int
    checkpoint: str
    checkpoint_sha256: str
    backend: str
    libraries: str
    processor: str
    rate: int
    samples: int
    kind: str
    config: Config
    source_sha256: str
    lanes_sha256: str
    lanes: Mapping[str, str]
    result_sha256: str


def write_receipt(
    *,
    checkpoint: str,
    checkpoint_hash: str,
    backend: str,
    rate: int,
    kind: str = "stream",
    config: Config,
    source: Floats,
    curves: CurveTable,
    result: Floats,
) -> Receipt:
    """The receipt of a bounce of `source` `[2, N]` into `result` `[2, N]`."""
    return Receipt(
        demon=__version__,
        protocol=PROTOCOL_VERSION,
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_hash,
        backend=backend,
        libraries=library_versions(),
        processor=processor_name(),
        rate=rate,
        samples=source.shape[1],
        kind=kind,
        config=config,
        source_sha256=hash_floats(source),
        lanes_sha256=hash_floats(curves.values),
        lanes={lane: describe_curve(curves.values[:, column]) for column, lane in enumerate(curves.lanes)},
        result_sha256=hash_floats(result),
    )


def library_versions() -> str:
    """Versions of what computes: another one may give other bits."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "soxr"))


def hash_floats(values: Floats) -> str:
    """SHA-256 of little-endian float32 values in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()


def describe_curve(curve: Floats) -> str:
    """A constant's value, or the curve's range."""
    low, high = float(curve.min()), float(curve.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def processor_name() -> str:
    """The kind of processor: another kind may give other bits."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
