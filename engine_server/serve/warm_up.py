# SPDX-License-Identifier: Apache-2.0
"""What the first track would wait for otherwise: compiling, and memory, kernels and threads, which come into being with the first
forward."""

from __future__ import annotations

import numpy as np

from engine_server.model.static_decoder import OnForm, StaticDecoder
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol.codec import CHANNELS
from shared_protocol.messages import make_config
from shared_protocol.timebase import samples_per_frame

RATE = 48_000


def warm_up(engine: Engine, on_form: OnForm | None = None) -> None:
    """Compile what tracks will meet, if the decoder compiles; then bounce a frame of silence in one step, which is not counted.

    on_form: told after each form that was compiled; the log says it too. Raises DemonError, and whatever the engine fails with.
    """
    decoder = engine.checkpoint.decoder
    if isinstance(decoder, StaticDecoder):
        decoder.warm_up(engine.checkpoint.track_sizes.forms, on_form)
    silence = np.zeros((CHANNELS, samples_per_frame(RATE)), dtype=np.float32)
    render(engine, silence, RATE, build_table({}, 1), make_config(steps=1))
    engine.count_anew()
