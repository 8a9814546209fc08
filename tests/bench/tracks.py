# SPDX-License-Identifier: Apache-2.0
"""The engine as the plugin uses it: ticks, batches, windowed decoding and a bounce, with the embedded checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import DEFAULT_DEPTH, Engine
from engine_server.tracks.render import render
from engine_server.tracks.track import track_geometry
from shared_protocol.messages import make_config
from tests.bench.forward import ours
from tests.bench.measure import Row, compared, interleaved, timed
from tests.bench.models import FRAMES_PER_SECOND, Effort, Subject, load
from tests.bench.requests import BusyRing

RATE = 48_000
ROUNDS = 15
WHOLE_S = 30


def rows(effort: Effort) -> Iterator[Row]:
    """Against what each costs by itself."""
    engine = Engine(load_checkpoint(EMBEDDED, device="cpu"))
    geometry = track_geometry(engine.checkpoint, RATE)
    with torch.no_grad():
        yield from _ticks(load(EMBEDDED), geometry.window_frames, effort)
        yield _windowed_decode(engine, len(geometry.latent_span(0)), effort)
    yield _bounce(engine, 2.0 if effort.quick else 10.0)


def _ticks(subject: Subject, frames: int, effort: Effort) -> Iterator[Row]:
    slots = DEFAULT_DEPTH
    ring = BusyRing(subject.decoder, subject.shape(slots, frames), steps=50)
    batch, single = (ours(subject.decoder, subject.inputs(count, frames)) for count in (slots, 1))

    def tick() -> None:
        ring.refill()
        ring.tick()

    took = interleaved(
        {"tick": tick, "batch": batch, "single": lambda: [single() for _ in range(slots)]}, effort.rounds(ROUNDS)
    )
    yield compared(
        f"tick of {slots} slots, a hop's window", took["tick"], f"bare forward of {slots} rows", took["batch"]
    )
    yield compared(f"one forward of {slots} rows", took["batch"], f"{slots} forwards of 1 row", took["single"])


def _windowed_decode(engine: Engine, frames: int, effort: Effort) -> Row:
    codec = engine.checkpoint.codec
    window, whole = (torch.zeros(1, length, codec.latent_channels) for length in (frames, WHOLE_S * FRAMES_PER_SECOND))
    took = interleaved(
        {"window": lambda: codec.decode(window), "whole": lambda: codec.decode(whole)}, effort.rounds(ROUNDS)
    )
    return compared("decode of one hop's window", took["window"], f"decode of {WHOLE_S} s", took["whole"])


def _bounce(engine: Engine, seconds: float) -> Row:
    source = (0.1 * np.random.default_rng(0).standard_normal((2, int(seconds * RATE)))).astype(np.float32)
    curves = build_table({"denoise": 0.6}, int(seconds * FRAMES_PER_SECOND))
    config = make_config("strings", 7, 0, "ode")
    took = timed(lambda: render(engine, source, RATE, curves, config))
    return Row(f"bounce of {seconds:g} s", took, "real time", seconds, "s")
