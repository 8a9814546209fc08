# SPDX-License-Identifier: Apache-2.0
"""A real server under garbage and damaged messages on both sockets: a bounce beside it has its bits, and nothing piles up.

`DEMON_FUZZ_SECONDS=600` makes it a soak.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from track_rig import music
from wire import CONFIG, ServerProcess, WireClient

from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from tests.fuzz.fuzz_server import PAUSE_S, Fuzzer

FRAMES = 100
SECONDS = float(os.environ.get("DEMON_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("DEMON_FUZZ_SEED", "1"))
MOST_MORE_MIB = 400
"""Input that a dozen strange tracks may hold, and what the allocator keeps: a leak of every message would be more."""
MOST_MORE_FILES = 100

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def resident_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Noise(threading.Thread):
    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.fuzzer = Fuzzer(endpoint, SEED)
        self._is_over = threading.Event()

    def run(self):
        while not self._is_over.is_set():
            self.fuzzer.send_some()
            time.sleep(PAUSE_S)
        self.fuzzer.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self.join()


def test_an_honest_bounce_has_its_bits_beside_garbage(tiny_folder, tiny):
    source = music(FRAMES)
    expected = render(Engine(tiny), source, 48_000, build_table({"denoise": 0.6}, FRAMES), CONFIG)
    with ServerProcess(str(tiny_folder)) as server, WireClient(server.endpoint) as client:
        client.hello()
        assert np.array_equal(client.bounce(source, frames=FRAMES), expected)
        pid = server.process.pid
        memory, files = resident_mib(pid), open_files(pid)
        with Noise(server.endpoint) as noise:
            until, epoch = time.monotonic() + SECONDS, 1
            while time.monotonic() < until or epoch == 1:
                epoch += 1
                assert np.array_equal(client.bounce(source, epoch=epoch, frames=FRAMES), expected)
                assert open_files(pid) < files + MOST_MORE_FILES
                assert resident_mib(pid) < memory + MOST_MORE_MIB
                assert noise.is_alive()
        assert noise.fuzzer.sent > 100
        assert server.process.poll() is None
        with WireClient(server.endpoint) as newcomer:
            newcomer.hello()
            assert np.array_equal(newcomer.bounce(source, frames=FRAMES), expected)
