# SPDX-License-Identifier: Apache-2.0
"""Audio on the wire: what packing saves and costs, per window of 25 frames, and what other ways to pack would have saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
import zstandard

from shared_protocol.codec import Floats
from shared_protocol.packing import LEVEL, pack, unpack
from tests.bench.measure import Row
from tests.bench.models import Effort

ROOT = Path(__file__).parents[2]
RATE, WINDOW_S = 48_000, 1
ROUNDS = 8
Words = np.ndarray[tuple[int, int], np.dtype[np.uint32]]


def rows(effort: Effort) -> Iterator[Row]:
    """Sizes against unpacked audio and against the alternatives, and times against a plain copy."""
    most = 2 if effort.quick else 20
    for name, audio in _sources():
        size = RATE * WINDOW_S
        windows = [np.ascontiguousarray(audio[:, i : i + size]) for i in range(0, audio.shape[1] - size + 1, size)]
        yield from _rows_of(name, windows[:most])


def _sources() -> Iterator[tuple[str, Floats]]:
    recording = _read(ROOT / "fixtures/turin_italy_30s.flac")
    yield "16-bit recording", recording
    yield "16-bit recording after a gain", recording * np.float32(0.71)
    yield "silence", np.zeros((2, 4 * RATE), np.float32)
    if (bounce := ROOT / "out/demo/bounce.wav").exists():  # made by `make demo`
        yield "what the model makes", _read(bounce)


def _rows_of(name: str, windows: list[Floats]) -> Iterator[Row]:
    payloads = [window.tobytes() for window in windows]
    frames = [pack(payload) or payload for payload in payloads]
    kilobytes = _mean_kilobytes(frames)
    yield Row(f"{name}: size", kilobytes, "as it is", _mean_kilobytes(payloads), "kB")
    for title, before, level in (
        ("level 3", lambda words: words, 3),
        ("XOR with the sample before", _exclusive_or, LEVEL),
        ("difference from the sample before", _difference, LEVEL),
    ):
        others = [_compress(before(window.view(np.uint32)), level) for window in windows]
        yield Row(f"{name}: size", kilobytes, title, _mean_kilobytes(others), "kB")
    copying = _mean_ms([partial(bytearray, payload) for payload in payloads])
    packing = _mean_ms([partial(pack, payload) for payload in payloads])
    yield Row(f"{name}: to pack", packing, "to copy", copying, "ms")
    pairs = [(frame, payload) for frame, payload in zip(frames, payloads, strict=True) if frame is not payload]
    if pairs:
        unpacking = _mean_ms([partial(unpack, frame, len(payload)) for frame, payload in pairs])
        yield Row(f"{name}: to unpack", unpacking, "to copy", copying, "ms")


def _read(path: Path) -> Floats:
    audio, _ = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(np.broadcast_to(audio.T, (2, len(audio))))


def _exclusive_or(words: Words) -> Words:
    changed = words.copy()
    changed[:, 1:] ^= words[:, :-1]
    return changed


def _difference(words: Words) -> Words:
    changed = words.copy()
    changed[:, 1:] -= words[:, :-1]
    return changed


def _compress(words: Words, level: int) -> bytes:
    planes = words.view(np.uint8).reshape(-1, 4).T.tobytes()
    return zstandard.ZstdCompressor(level=level).compress(planes)


def _mean_kilobytes(payloads: list[bytes]) -> float:
    return sum(map(len, payloads)) / len(payloads) / 1e3


def _mean_ms(actions: list[Callable[[], object]]) -> float:
    """The mean over the actions of the shortest CPU time of each: other processes only ever add."""
    shortest = []
    for action in actions:
        times = []
        for _ in range(ROUNDS):
            began = time.thread_time()
            action()
            times.append(time.thread_time() - began)
        shortest.append(min(times))
    return 1e3 * sum(shortest) / len(shortest)
