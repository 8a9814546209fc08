# SPDX-License-Identifier: Apache-2.0
"""What is bounced, and the bits that must come out: computed here without plugin, server and socket."""

from __future__ import annotations

from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

from engine_server.files import read_audio
from engine_server.model.checkpoint import load_checkpoint
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from engine_server.tracks.render_clip import render_clip
from shared_protocol.codec import Floats
from shared_protocol.messages import make_config
from shared_protocol.timebase import frames_to_cover
from tests.soak.starter import ROOT

RATE = 48_000
LATENCY = 150 * 1920
"""Samples: the plugin's own default."""
PIECE = 6 * 61_440
"""Samples: 7.68 s, on the grid of every block size used."""
DENOISE = 0.6
PROMPT, SEED = "strings", 7
PROMPT_ENVIRONMENT = {"DEMON_PROMPT": PROMPT, "DEMON_SEED": str(SEED)}


class Music:
    """The source of `pieces` times 7.68 s, and what becomes of it with a checkpoint."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self.reference = lru_cache(maxsize=None)(self._reference)

    @staticmethod
    @cache
    def source(pieces: int) -> Floats:
        """`[2, N]`: real music."""
        audio, rate = read_audio(ROOT / "fixtures" / "turin_italy_30s.flac")
        assert rate == RATE
        return np.ascontiguousarray(np.tile(audio[:, 10 * RATE : 10 * RATE + PIECE], (1, pieces)))

    @cached_property
    def _engine(self) -> Engine:
        return Engine(load_checkpoint(str(self._model)))

    def _reference(self, pieces: int, steps: int, is_commit: bool = False) -> Floats:
        source = self.source(pieces)
        make = render_clip if is_commit else render
        curves = build_table({"denoise": DENOISE}, frames_to_cover(source.shape[1], RATE))
        return make(self._engine, source, RATE, curves, make_config(PROMPT, SEED, steps, "ode"))
