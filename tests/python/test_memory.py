# SPDX-License-Identifier: Apache-2.0
"""What a server does with memory that nobody uses any more."""

from __future__ import annotations

import platform
import threading
import time

import numpy as np
import psutil
import pytest
from track_rig import music
from wire import WireClient

from engine_server.serve import worker as worker_module
from engine_server.serve.memory import give_back
from engine_server.serve.server import Server
from engine_server.tracks.engine import Engine

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be asked for it")
def test_free_memory_between_what_is_still_used_goes_back():
    blocks = [np.ones(100_000 // 8) for _ in range(1000)]  # below the size that has a mapping of its own
    kept = blocks[::100]
    del blocks
    before = psutil.Process().memory_info().rss
    assert give_back()
    assert psutil.Process().memory_info().rss < before - 50 * MIB
    assert all(block[0] == 1 for block in kept)


def test_a_server_gives_memory_back_once_after_work(tiny, monkeypatch):
    given = []
    monkeypatch.setattr(worker_module, "give_back", lambda: given.append(threading.current_thread().name))
    monkeypatch.setattr(worker_module, "GIVE_BACK_AFTER_S", 0.05)
    monkeypatch.setattr(worker_module, "IDLE_POLL_S", 0.02)
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for bounces in range(3):  # first of all what loading has left
            before = len(given)
            if bounces:
                with WireClient(server.endpoint) as client:
                    client.hello()
                    client.bounce(music(25), frames=25)
            deadline = time.monotonic() + 30.0
            while len(given) == before and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.3)  # a slow client may let it rest in between
            once_more = len(given)
            time.sleep(0.5)
            assert before < len(given) == once_more
        assert set(given) == {"engine"}
    finally:
        server.stop()
        thread.join()


def test_a_server_gives_memory_back_now_and_then_under_work_that_never_rests(tiny, monkeypatch):
    given = []
    monkeypatch.setattr(worker_module, "give_back", lambda: given.append(time.monotonic()))
    monkeypatch.setattr(worker_module, "GIVE_BACK_AFTER_S", 1e6)
    monkeypatch.setattr(worker_module, "GIVE_BACK_EVERY_S", 0.05)
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with WireClient(server.endpoint) as client:
            client.hello()
            began = time.monotonic()
            client.bounce(music(100), frames=100)
            ended = time.monotonic()
        assert 1 < sum(began < at < ended for at in given) < (ended - began) / 0.05 + 2
    finally:
        server.stop()
        thread.join()


def test_a_server_gives_back_also_what_no_work_has_freed(tiny, monkeypatch):
    given = []
    monkeypatch.setattr(worker_module, "give_back", lambda: given.append(time.monotonic()))
    monkeypatch.setattr(worker_module, "GIVE_BACK_EVERY_S", 0.05)
    monkeypatch.setattr(worker_module, "IDLE_POLL_S", 0.02)
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30.0
        while len(given) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(given) >= 4
    finally:
        server.stop()
        thread.join()
