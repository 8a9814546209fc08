# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the engine on the machine at hand: `make bench`.

Every figure is a ratio against a baseline measured in the same run, interleaved with it, so that a busy
machine disturbs both alike.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine_server.cli import load_engine
from engine_server.diffusion.noise import PositionNoise
from engine_server.diffusion.ring import Ring, RingShape, SlotRequest
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from engine_server.tracks.track import track_geometry
from shared_protocol.messages import Config

ROUNDS = 7
RATE = 48_000


def main() -> None:
    engine = load_engine("embedded", depth=4)
    table = Table("what", "ratio", "measured", "baseline", title=engine.backend)
    for row in (tick_against_bare_forward(engine), batch_against_single_rows(engine), window_against_whole(engine)):
        table.add_row(*row)
    table.add_row(*bounce_against_real_time(engine))
    Console().print(table)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def compare(what: str, measured: Callable[[], object], baseline: Callable[[], object]) -> tuple[str, str, str, str]:
    """Median times of both, taken in turn, and their ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for action, into in zip((measured, baseline), times, strict=True):
            began = time.perf_counter()
            action()
            into.append(time.perf_counter() - began)
    ours, theirs = (statistics.median(series) for series in times)
    return what, f"{ours / theirs:.2f}", f"{1000 * ours:.1f} ms", f"{1000 * theirs:.1f} ms"


def tick_against_bare_forward(engine: Engine) -> tuple[str, str, str, str]:
    """What the ring adds to the model's own forward of the same batch."""
    ring, inputs = busy_ring(engine), forward_inputs(engine, 4)
    return compare("tick of 4 slots / bare forward of 4 rows", ring.tick, lambda: forward(engine, inputs))


def batch_against_single_rows(engine: Engine) -> tuple[str, str, str, str]:
    """What one batched forward saves against a forward for each slot."""
    batch, single = forward_inputs(engine, 4), forward_inputs(engine, 1)
    return compare(
        "one forward of 4 rows / 4 forwards of 1 row",
        lambda: forward(engine, batch),
        lambda: [forward(engine, single) for _ in range(4)],
    )


def window_against_whole(engine: Engine) -> tuple[str, str, str, str]:
    """What a hop's windowed decode costs against decoding the whole 30 s again for every hop."""
    geometry, codec = track_geometry(engine.checkpoint, RATE), engine.checkpoint.codec
    window = torch.zeros(1, len(geometry.latent_span(0)), codec.latent_channels)
    whole = torch.zeros(1, 750, codec.latent_channels)
    with torch.no_grad():
        return compare(
            "decode of one hop's window / of 30 s", lambda: codec.decode(window), lambda: codec.decode(whole)
        )


def bounce_against_real_time(engine: Engine) -> tuple[str, str, str, str]:
    """Ten seconds bounced, against ten seconds."""
    seconds = 10.0
    source = (0.1 * np.random.default_rng(0).standard_normal((2, int(seconds * RATE)))).astype(np.float32)
    curves = build_table({"denoise": 0.6}, int(seconds * 25))
    began = time.perf_counter()
    render(engine, source, RATE, curves, Config("strings", 7, 0, "ode"))
    took = time.perf_counter() - began
    return "bounce / real time", f"{took / seconds:.2f}", f"{took:.2f} s", f"{seconds:.2f} s"


def forward_inputs(engine: Engine, rows: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the decoder for one hop's window."""
    frames = track_geometry(engine.checkpoint, RATE).window_frames
    condition = engine.checkpoint.condition("strings")
    x = torch.randn(rows, frames, engine.checkpoint.codec.latent_channels)
    states, mask = condition.states.expand(rows, -1, -1), condition.mask.expand(rows, -1)
    return x, torch.full((rows,), 0.5), states, mask, torch.cat([x, x], dim=-1)


@torch.no_grad()
def forward(engine: Engine, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    x, t, states, mask, context = inputs
    return engine.checkpoint.decoder(x, t, states, mask, context)


def busy_ring(engine: Engine) -> Ring:
    """A ring with four slots in flight, for as many ticks as the bench makes."""
    geometry, checkpoint = track_geometry(engine.checkpoint, RATE), engine.checkpoint
    condition, channels = checkpoint.condition("strings"), checkpoint.codec.latent_channels
    shape = RingShape(4, geometry.window_frames, channels, condition.mask.shape[1], checkpoint.condition_width)
    ring = Ring(checkpoint.decoder, shape)
    source = torch.zeros(geometry.window_frames, channels)
    for slot in range(4):
        ring.admit(
            SlotRequest(
                request_id=slot,
                noise=PositionNoise(slot, 0),
                source=source,
                context=checkpoint.context(source),
                states=condition.states[0],
                mask=condition.mask[0],
                steps=50,
            )
        )
    return ring


if __name__ == "__main__":
    main()
