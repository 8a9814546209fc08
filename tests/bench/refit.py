# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.refit ENGINE LORA --checkpoint NAME`: what LoRAs cost a stream over an engine, and when they are heard.

A live stream is full, and every tick is waited for. First nothing changes; then a LoRA's strength moves before every tick, so
that refits follow one another without a pause; then it moves, and ticks go by until it is heard, several times.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine_server.session import Session
from engine_server.types import PreparedSource
from trt_engines.refit_worker import REFIT_DONE

TICKS = 100
WARM_UP = 20
MOVES = 20
MOST_TICKS = 10_000
"""After so many a strength is never heard."""


def measure(session: Session, lora: str, *, seconds: float = 60.0, ticks: int = TICKS) -> Mapping[str, float]:
    """Milliseconds: `tick` and `tick_moving` are medians, `longest` and `longest_moving` what their names say, `heard` is from a
    change of strength to the end of the first tick with it, the median of MOVES, and `heard_late` the longest.

    lora: applied already. Raises RuntimeError for a strength that is never heard.
    """
    decoder: Any = session.checkpoint.decoder
    silence = session.empty_latent(seconds)
    stream = session.stream(
        source=PreparedSource(silence, silence, 0),
        conditioning=session.encode_text(tags="strings"),
        pipeline_depth=4,
        has_source=False,
    )
    strengths = (0.25 + 0.05 * (k % 20) for k in itertools.count())

    def tick() -> None:
        stream.tick()
        if session.checkpoint.placement.device.type == "cuda":
            torch.cuda.synchronize(session.checkpoint.placement.device)

    def moved() -> None:
        session.set_lora_strength(lora, next(strengths))
        tick()

    def heard() -> None:
        session.set_lora_strength(lora, next(strengths))
        wanted = session.loras.mix()
        for _ in range(MOST_TICKS):
            tick()
            if wanted.is_near(decoder.heard):
                return
        raise RuntimeError("a strength is never heard: see the log")

    with contextlib.closing(stream):
        _times(tick, WARM_UP)
        still = _times(tick, ticks)
        _times(moved, WARM_UP)
        moving = _times(moved, ticks)
        delays = _times(heard, MOVES)
    return {
        "tick": statistics.median(still),
        "longest": max(still),
        "tick_moving": statistics.median(moving),
        "longest_moving": max(moving),
        "heard": statistics.median(delays),
        "heard_late": max(delays),
    }


def _times(call: Callable[[], None], count: int) -> list[float]:
    def timed() -> float:
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began)

    return [timed() for _ in range(count)]


def main() -> None:
    """Print the figures, and how long refits took."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.refit", description=__doc__)
    parser.add_argument("engine", help="folder of a decoder's engine that was built with --refit")
    parser.add_argument("lora", help="a LoRA's file")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the window (60)")
    given = parser.parse_args()
    refits = _Refits()
    log = logging.getLogger("demon.engine")
    log.setLevel(logging.INFO)
    log.addHandler(refits)
    with Session(
        given.checkpoint, device="cuda", decoder_backend="tensorrt", trt_engines={"decoder": given.engine}
    ) as session:
        lora = session.apply_lora(given.lora)
        figures = dict(measure(session, lora, seconds=given.seconds))
    figures["refit"] = statistics.median(refits.took)
    for name, value in figures.items():
        print(f"{name:>16} {value:8.1f} ms")
    print(f"wanted: longest_moving at most {2 * figures['tick']:.1f} ms, heard at most 100 ms")


class _Refits(logging.Handler):
    """How long each took."""

    def __init__(self) -> None:
        super().__init__()
        self.took: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Of the line that says so."""
        if record.msg == REFIT_DONE and record.args:
            self.took.append(float(record.args[0]))  # type: ignore[arg-type, index]


if __name__ == "__main__":
    main()
