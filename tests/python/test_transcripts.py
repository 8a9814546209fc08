# SPDX-License-Identifier: Apache-2.0
"""The transcripts of SPEC.md, section 8, are what a server does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from transcript import Replay, transcripts

from engine_server.serve.server import Server
from engine_server.tracks.engine import Engine

DOCUMENT = Path(__file__).parents[2] / "shared_protocol" / "SPEC.md"
ALL = list(transcripts(DOCUMENT.read_text(encoding="utf-8")))
DEFINITIONS = [line for _, lines in ALL for line in lines if line.startswith("let ")]


class InProcess:
    """A server on threads of this process: it starts at once, and its end can be a crash as its clients see one."""

    def __init__(self, checkpoint):
        self._checkpoint = checkpoint
        self.endpoint = "tcp://127.0.0.1:*"
        self.start()

    def start(self):
        self._server = Server(Engine(self._checkpoint), self.endpoint)
        self.endpoint = self._server.endpoint
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()

    def kill(self):
        """End without a farewell."""
        for client in self._server._clients:
            self._server._clients.forget(client)
        self.stop()

    def stop(self):
        self._server.stop()
        self._thread.join()


@pytest.fixture(scope="module")
def server(tiny):
    host = InProcess(tiny)
    yield host
    host.stop()


@pytest.mark.parametrize(("name", "lines"), ALL, ids=[name.replace(" ", "-") for name, _ in ALL])
def test_a_transcript_is_what_the_server_does(server, name, lines):
    replay = Replay(server, {})
    try:
        replay.play([line for line in DEFINITIONS if line not in lines] + lines)
    finally:
        replay.close()
    if not server._thread.is_alive():
        server.start()


def test_a_transcript_that_is_wrong_is_told(server):
    lines = dict(ALL)["wrong messages"]
    wrong = [line.replace('"E_MALFORMED"', '"E_FIELD"', 1) for line in lines]
    replay = Replay(server, {})
    try:
        with pytest.raises(AssertionError, match="E_MALFORMED"):
            replay.play([*DEFINITIONS, *wrong])
    finally:
        replay.close()
