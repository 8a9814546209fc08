# SPDX-License-Identifier: Apache-2.0
"""What is bounced, and the bits that must come out: computed here without plugin, server and socket."""

from __future__ import annotations

import threading
from functools import cache, cached_property
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
    """The source of `pieces` times 7.68 s, and what becomes of it with a checkpoint. Results are kept."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int, bool, float], Floats] = {}

    @staticmethod
    @cache
    def source(pieces: int) -> Floats:
        """`[2, N]`: real music."""
        audio, rate = read_audio(ROOT / "fixtures" / "turin_italy_30s.flac")
        assert rate == RATE
        return np.ascontiguousarray(np.tile(audio[:, 10 * RATE : 10 * RATE + PIECE], (1, pieces)))

    @classmethod
    def clip(cls, samples: int) -> Floats:
        """`[2, N]`: the first samples of a piece."""
        return np.ascontiguousarray(cls.source(1)[:, :samples])

    def rest(self, samples: int, denoise: float) -> Floats:
        """What a loop of the first samples of a piece comes to rest on. Any thread."""
        return self._make(self.clip(samples), 0, is_commit=True, denoise=denoise)

    def reference(self, pieces: int, steps: int, *, is_commit: bool = False) -> Floats:
        """The bounce, or the commit, of so many pieces. steps: 0 for the checkpoint's own number. Any thread."""
        return self._make(self.source(pieces), steps, is_commit=is_commit)

    def short_reference(self, samples: int) -> Floats:
        """The bounce of the first samples of a piece alone, with the checkpoint's own number of steps. Any thread."""
        return self._make(self.clip(samples), 0)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(load_checkpoint(str(self._model)))

    def _make(self, source: Floats, steps: int, *, is_commit: bool = False, denoise: float = DENOISE) -> Floats:
        key = (source.shape[1], steps, is_commit, denoise)
        with self._lock:
            if key not in self._known:
                make = render_clip if is_commit else render
                curves = build_table({"denoise": denoise}, frames_to_cover(source.shape[1], RATE))
                config = make_config(PROMPT, SEED, steps, "ode")
                self._known[key] = make(self._engine, source, RATE, curves, config)
            return self._known[key]
