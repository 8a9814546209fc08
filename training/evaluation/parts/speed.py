# SPDX-License-Identifier: Apache-2.0
"""Speed on two threads: generations of 10 s through a stream of depth 4, and the codec."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from engine_server.types import Audio, Latent
from training.evaluation.report import Figure, Listing
from training.evaluation.spectra import SAMPLE_RATE
from training.evaluation.subject import Subject

THREADS = 2
SECONDS, WINDOW_S = 10.0, 3.0
DEPTH, STEPS = 4, 8


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Rates and times; medians of repeated runs, at the guidance of the covers."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield from _measure(subject)
    finally:
        torch.set_num_threads(before)


def _measure(subject: Subject) -> Iterator[Figure | Listing]:
    session, frames = subject.session, round(SECONDS * 25)
    rounds = subject.effort.of(7, 2)
    note = f"{torch.get_num_threads()} threads"
    noise = torch.randn(2, round(SECONDS * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    audio = Audio.of(0.1 * noise, SAMPLE_RATE)
    source = session.prepare_source(audio)
    guidance: dict[str, Any] = {} if subject.guidance == 1.0 else {"guidance_curve": subject.guidance}
    handle = session.stream(
        source=source,
        conditioning=session.encode_text(tags="strings"),
        steps=STEPS,
        pipeline_depth=DEPTH,
        **guidance,
    )
    for _ in range(STEPS):
        handle.tick()  # until the ring is full
    rates = []
    for _ in subject.progress.each(range(rounds), "generations"):
        began = time.perf_counter()
        finished = sum(len(handle.tick()) for _ in range(STEPS))
        rates.append(finished / (time.perf_counter() - began))
    handle.close()
    yield Figure(
        "generations",
        statistics.median(rates),
        "/s",
        rounds,
        (min(rates), max(rates)),
        f"of {SECONDS:g} s, depth {DEPTH}, {STEPS} steps, guidance {subject.guidance:g}, {note}; range of rounds",
    )
    latent = Latent(source.latent.frames)
    window = round(WINDOW_S * 25)
    first = (frames - window) // 2
    yield _timed("decode of 3 s", lambda: session.decode_window(latent, first, window), rounds, f"of 10 s, {note}")
    yield _timed("decode of 10 s", lambda: session.decode_full(latent), rounds, note)
    yield _timed("encode of 10 s", lambda: session.encode_audio(audio), rounds, note)


def _timed(name: str, action: Callable[[], object], rounds: int, note: str) -> Figure:
    action()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - began))
    return Figure(name, statistics.median(times), "ms", rounds, (min(times), max(times)), f"{note}; range of rounds")
