# SPDX-License-Identifier: Apache-2.0
"""From a turned knob to its sound in mode Loop, and where the time goes.

The whole is measured in a host that plays in real time with a real engine; the parts are measured each by itself. The
loop rests before the knob is turned, so that a whole generation lies between: the longest way there is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from engine_server.model.checkpoint import load_checkpoint
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.tracks.engine import Engine
from engine_server.tracks.loop_track import LoopTrack
from engine_server.tracks.lora_catalogue import LoraCatalogue
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode
from shared_protocol.timebase import FRAMES_PER_SECOND
from tests.bench.measure import Row, timed
from tests.bench.models import Effort
from tests.bench.plugin import BUNDLE, MODES, PROGRAM, build, engine, run_program

RATE, CLIP_S = 48_000, 2
FRAMES = CLIP_S * FRAMES_PER_SECOND
LANES = ("velocity_scale",)
EPOCH = 1
WHOLE = "knob to sound in Loop, from rest"


@dataclass(frozen=True)
class Answer:
    """What an engine did from an edit to the first window that heard it; seconds."""

    ticks: int
    tick: float
    """Median of the steps without a window."""
    decode: float
    """What the step with the window took longer."""


def rows(effort: Effort) -> Iterator[Row]:
    """The whole against its parts, and each part against the whole."""
    build()
    rounds = 1 if effort.quick else 15
    with engine(EMBEDDED) as endpoint:
        environment = {**MODES["Loop"].environment, "DEMON_ENDPOINT": endpoint}
        heard = run_program([str(PROGRAM), "knob", "--rounds", str(rounds), str(BUNDLE)], environment)[0]
        link = statistics.median(_round_trips(endpoint, 5 if effort.quick else 200))
    answers = _answers(rounds)
    ticks = statistics.median(answer.ticks * answer.tick for answer in answers)
    decode = statistics.median(answer.decode for answer in answers)
    whole = statistics.median(heard)
    parts = {
        f"{answers[0].ticks} ticks of the engine": ticks,
        "decode of the window at the playhead": decode,
        "link, there and back": link,
        "the rest: the frame's edge, blocks, the splice, threads that wait for their turn": whole
        - ticks
        - decode
        - link,
    }
    note = f"{min(heard) * 1000:.0f} to {max(heard) * 1000:.0f} ms in {len(heard)} rounds"
    yield Row(WHOLE, 1000 * whole, "ticks, decode and link alone", 1000 * (ticks + decode + link), "ms", note=note)
    for name, seconds in parts.items():
        yield Row(f"of it {name}", 1000 * seconds, WHOLE, 1000 * whole, "ms")


def _answers(rounds: int) -> list[Answer]:
    """An engine with one loop and nothing else to do."""
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    engine, config = Engine(checkpoint), m.make_config("strings", 7)
    track = LoopTrack(
        "loop", checkpoint, rate=RATE, latency=0, lanes=LANES, config=config, loras=LoraCatalogue(checkpoint)
    )
    engine.tracks[track.id] = track
    clip = (0.1 * np.random.default_rng(0).standard_normal((2, CLIP_S * RATE))).astype(np.float32)
    track.begin(EPOCH, kind="loop", start=0, feed_from=0, deliver_from=0, offline=False)
    track.feed(EPOCH, 0, clip, np.ones((FRAMES, 1), dtype=np.float32))
    track.finish(EPOCH, FRAMES)
    answers = []
    for turn in range(rounds + 1):  # the first does not count
        _rest(engine)
        track.edit(EPOCH, np.array([[0, 0, FRAMES, 0.8 + 0.2 * (turn % 2)]], dtype=np.float32))
        answers.append(_answer(engine))
    return answers[1:]


def _rest(engine: Engine) -> None:
    while engine.has_work():
        engine.step()


def _answer(engine: Engine) -> Answer:
    steps: list[float] = []
    while True:
        began = time.perf_counter()
        result = engine.step()
        steps.append(time.perf_counter() - began)
        if result.windows:
            tick = statistics.median(steps[:-1])
            return Answer(len(steps), tick, max(0.0, steps[-1] - tick))


def _round_trips(endpoint: str, count: int) -> Sequence[float]:
    """Seconds of heartbeats and their answers, beside nothing else."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)

        def ask(message: m.Message) -> None:
            socket.send_multipart(encode(Packet(message)))
            socket.recv_multipart()

        ask(
            m.Hello(
                protocol=PROTOCOL_VERSION, client="bench", rate=RATE, mode="loop", latency=0, credit=250,
                packing="none", lanes=list(LANES), config=m.make_config(),
            )
        )  # fmt: skip
        return [timed(lambda: ask(m.Ping(0, 0, 0, 0))) for _ in range(count)]
