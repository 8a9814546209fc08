# SPDX-License-Identifier: Apache-2.0
"""Peak memory, every figure of a process of its own: what is resident at most while it runs, beyond the loaded model."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from engine_server.diffusion.dcw_settings import DcwSettings
from tests.bench.forward import diffusers, ours
from tests.bench.measure import Row
from tests.bench.models import FRAMES_PER_SECOND, Effort, load
from tests.bench.requests import BusyRing

TICKS = 3


def rows(effort: Effort) -> Iterator[Row]:
    """Forwards of one row at every duration, and rings at every depth."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        for name in effort.models:
            for duration in effort.durations_s:
                frames = duration * FRAMES_PER_SECOND
                yield Row(
                    f"{name}: peak memory of a forward of {duration} s",
                    fresh.submit(peak_of_forward, name, frames, by_diffusers=False).result(),
                    "diffusers' own",
                    fresh.submit(peak_of_forward, name, frames, by_diffusers=True).result(),
                    "MiB",
                )
            first = None
            for depth in effort.depths:
                peak = fresh.submit(peak_of_ring, name, depth, effort.frames).result()
                first = first or peak
                yield Row(
                    f"{name}: peak memory of a ring of depth {depth}, {effort.frames} frames",
                    peak,
                    "depth 1",
                    first,
                    "MiB",
                )


@torch.inference_mode()
def peak_of_forward(name: str, frames: int, *, by_diffusers: bool) -> float:
    """MiB that a forward of one row adds to the loaded model."""
    subject = load(name)
    before = begin_peak()
    inputs = subject.inputs(1, frames)
    (diffusers(subject, inputs) if by_diffusers else ours(subject.decoder, inputs))()
    return status_mib("VmHWM") - before


@torch.no_grad()
def peak_of_ring(name: str, depth: int, frames: int) -> float:
    """MiB that a full ring adds to the loaded model, requests included."""
    subject = load(name)
    before = begin_peak()
    ring = BusyRing(subject.decoder, subject.shape(depth, frames), dcw=DcwSettings())
    for _ in range(TICKS):
        ring.refill()
        ring.tick()
    return status_mib("VmHWM") - before


def begin_peak() -> float:
    """Forget the process's peak so far; MiB that are resident now. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def status_mib(name: str) -> float:
    """A figure of `/proc/self/status` in MiB. (`getrusage` would give a child its parent's peak.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)
