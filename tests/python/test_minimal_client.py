# SPDX-License-Identifier: Apache-2.0
"""The client that was written from SPEC.md alone bounces with the bits of a render, also when the engine dies in between."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import zmq
from wire import ServerProcess

from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode

SCRIPT = Path(__file__).parents[2] / "examples" / "minimal_client.py"
MOST_LINES = 150
RATE, FRAME, FRAMES = 48_000, 1920, 400
CRASH_AT = 200
"""A frame of the result: the client no longer has to feed from the first one when it resumes."""
PATIENCE_S = 300


@pytest.fixture(scope="module")
def server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file that ends inside a frame, and its samples `[2, N]`."""
    t = np.arange(FRAMES * FRAME - 777) / RATE
    samples = np.stack([0.3 * np.sin(700 * t), 0.2 * np.sin(2000 * t + np.sin(t))]).astype(np.float32)
    path = tmp_path_factory.mktemp("source") / "source.wav"
    soundfile.write(path, samples.T, RATE, subtype="FLOAT")
    return path, samples


@pytest.fixture(scope="module")
def expected(tiny, source):
    table = build_table({"denoise": 0.6}, FRAMES)
    return render(Engine(tiny), source[1], RATE, table, m.make_config("strings", 7))


class Run:
    """The script at work."""

    def __init__(self, source, out, endpoint):
        self._out = out
        command = [sys.executable, SCRIPT, source, out, endpoint, "strings", "denoise=0.6"]
        self.process = subprocess.Popen(
            [*map(str, command), "--give-up", str(PATIENCE_S)], stdout=subprocess.PIPE, text=True
        )

    def wait_for_frame(self, frame):
        for line in self.process.stdout:
            if int(line.split()[0]) >= frame:
                return
        raise AssertionError("it ended before that frame")

    def result(self):
        """The samples `[2, N]` of its file."""
        self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0
        return soundfile.read(self._out, dtype="float32")[0].T


class SignPost(threading.Thread):
    """An engine that sends every track to another."""

    def __init__(self, elsewhere):
        super().__init__(daemon=True)
        self._answer = encode(Packet(m.Redirect(elsewhere.replace("127.0.0.1", "*"), "")))  # as a gateway says it
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._is_over = False
        self.heard = []

    def run(self):
        while not self._is_over:
            if self._socket.poll(100):
                name, *parts = self._socket.recv_multipart()
                self.heard.append(parts)
                self._socket.send_multipart([name, *self._answer])
        self._context.destroy(linger=0)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self.join()


def test_it_is_short_and_uses_nothing_of_ours():
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(isinstance(node, ast.Import) for node in imports)
    names = {alias.name.partition(".")[0] for node in imports for alias in node.names}
    assert names - sys.stdlib_module_names == {"msgspec", "numpy", "soundfile", "zmq"}


def test_it_goes_where_it_is_sent_and_bounces_with_the_bits_of_a_render(server, source, expected, tmp_path):
    with SignPost(server.endpoint) as post:
        assert np.array_equal(Run(source[0], tmp_path / "out.wav", post.endpoint).result(), expected)
    assert len(post.heard) == 1


def test_a_lane_without_a_value_is_named(source, tmp_path):
    command = [sys.executable, SCRIPT, source[0], tmp_path / "out.wav", "tcp://127.0.0.1:47800", "strings", "denoise"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "denoise" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_killed_in_mid_bounce_and_started_again_changes_no_bit(server, source, expected, tmp_path):
    run = Run(source[0], tmp_path / "out.wav", server.endpoint)
    run.wait_for_frame(CRASH_AT)
    server.kill()
    assert run.process.poll() is None
    server.start()
    assert np.array_equal(run.result(), expected)
