# SPDX-License-Identifier: Apache-2.0
"""Peak memory, every figure of a process of its own: what is resident at most while it runs, beyond the loaded model."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from engine_server.diffusion.dcw_settings import DcwSettings
from tests.bench.forward import diffusers, ours
from tests.bench.measure import Row
from tests.bench.models import FRAMES_PER_SECOND, Effort, load
from tests.bench.requests import BusyRing

TICKS = 3


class Peak(NamedTuple):
    """What was resident at most: beyond the loaded model, and in all."""

    added_mib: float
    process_mib: float


def rows(effort: Effort) -> Iterator[Row]:
    """Forwards of one row at every duration, and rings at every depth."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        for name in effort.models:
            for duration in effort.durations_s:
                frames = duration * FRAMES_PER_SECOND
                ours_peak, their_peak = (
                    fresh.submit(peak_of_forward, name, frames, by_diffusers=by_diffusers).result()
                    for by_diffusers in (False, True)
                )
                yield _row(f"{name}: peak memory of a forward of {duration} s", ours_peak, "diffusers' own", their_peak)
            peaks = [fresh.submit(peak_of_ring, name, depth, effort.frames).result() for depth in effort.depths]
            for depth, peak in zip(effort.depths, peaks, strict=True):
                what = f"{name}: peak memory of a ring of depth {depth}, {effort.frames} frames"
                yield _row(what, peak, f"depth {effort.depths[0]}", peaks[0])


def _row(name: str, measured: Peak, against: str, baseline: Peak) -> Row:
    note = f"{measured.process_mib:.0f} MiB with the model and all libraries"
    return Row(name, measured.added_mib, against, baseline.added_mib, "MiB", note=note)


@torch.inference_mode()
def peak_of_forward(name: str, frames: int, *, by_diffusers: bool) -> Peak:
    """Of a forward of one row."""
    subject = load(name)
    before = begin_peak()
    inputs = subject.inputs(1, frames)
    (diffusers(subject, inputs) if by_diffusers else ours(subject.decoder, inputs))()
    return end_peak(before)


@torch.no_grad()
def peak_of_ring(name: str, depth: int, frames: int) -> Peak:
    """Of a full ring, its requests included."""
    subject = load(name)
    before = begin_peak()
    ring = BusyRing(subject.decoder, subject.shape(depth, frames), dcw=DcwSettings())
    for _ in range(TICKS):
        ring.refill()
        ring.tick()
    return end_peak(before)


def begin_peak() -> float:
    """Forget the process's peak so far; MiB that are resident now. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def end_peak(before: float) -> Peak:
    """The peak since `begin_peak`, which gave `before`."""
    highest = status_mib("VmHWM")
    return Peak(highest - before, highest)


def status_mib(name: str) -> float:
    """A figure of `/proc/self/status` in MiB. (`getrusage` would give a child its parent's peak.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)
