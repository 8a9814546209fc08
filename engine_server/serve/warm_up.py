# SPDX-License-Identifier: Apache-2.0
"""What the first track would wait for otherwise: compiling, and memory, kernels and threads, which come into being with the first
forward."""

from __future__ import annotations

import numpy as np

from engine_server.diffusion.rows import RingShape
from engine_server.model.adapter_stack import COLUMNS_STEP
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.forms import Form, forms_of_ring
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
        decoder.warm_up(forms_of_tracks(engine.checkpoint), on_form)
    silence = np.zeros((CHANNELS, samples_per_frame(RATE)), dtype=np.float32)
    render(engine, silence, RATE, build_table({}, 1), make_config(steps=1))
    engine.count_anew()


def forms_of_tracks(checkpoint: Checkpoint) -> list[Form]:
    """What every track meets that leaves the windows as the checkpoint has them: without adapters, and with a few."""
    settings, geometry = checkpoint.settings, checkpoint.settings.geometry
    shape = RingShape(
        depth=1,
        frames=geometry.past + geometry.hop + geometry.lookahead,
        channels=checkpoint.codec.latent_channels,
        tokens=settings.condition_tokens,
        width=checkpoint.condition_width,
    )
    return forms_of_ring(shape, columns=(0, COLUMNS_STEP))
