# SPDX-License-Identifier: Apache-2.0
"""The built bundle, a server process, and real music, for tests that drive the plugin in hosts."""

from __future__ import annotations

import numpy as np
import pytest
from host_values import PROMPT, SEED
from wire import ServerProcess

from engine_server.files import read_audio
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from hosts.bounce import BUNDLE
from shared_protocol.messages import make_config
from shared_protocol.timebase import frames_to_cover


@pytest.fixture(scope="session", autouse=True)
def bundle():
    """The plugin must have been built: a missing one is a failure, not a reason to skip."""
    assert BUNDLE.is_dir(), f"{BUNDLE} is missing: run `make plugin`"
    return BUNDLE


@pytest.fixture(scope="session")
def server(tiny_folder):
    """A server of the tiny checkpoint."""
    with ServerProcess(str(tiny_folder)) as process:
        yield process


@pytest.fixture(scope="session")
def music(fixtures):
    """7.68 s of real music: six times 61440 samples, so that steps there are block edges for every block size tested."""
    audio, rate = read_audio(fixtures / "turin_italy_30s.flac")
    assert rate == 48_000
    return np.ascontiguousarray(audio[:, 10 * rate : 10 * rate + 6 * 61_440])


@pytest.fixture(scope="session")
def reference(tiny):
    """The bounce that every host must reproduce, computed without plugin and socket."""
    engine = Engine(tiny)

    def compute(source, *, rate=48_000, steps=0, seed=SEED, **lanes):
        curves = build_table(lanes, frames_to_cover(source.shape[1], rate))
        return render(engine, source, rate, curves, make_config(PROMPT, seed, steps, "ode"))

    return compute
