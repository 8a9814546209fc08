# SPDX-License-Identifier: Apache-2.0
"""Bounces through an engine that other machines could reach: with a key, without one, and after it was revoked."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from host_values import PROMPT_ENVIRONMENT
from wire import ServerProcess

from engine_server.serve.credentials import new_client
from engine_server.serve.keys import KeyStore
from hosts.bounce import start_bounce


def free_pair():
    """A port that is free, and the next one too."""
    for _ in range(64):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("0.0.0.0", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("0.0.0.0", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two ports in a row are free")


@pytest.fixture(scope="module", params=[1, 2], ids=["engine", "gateway"])
def keyed(request, tiny_folder, tmp_path_factory):
    """A server on all addresses, the folder of the plugin's user, and the endpoint as the plugin knows it."""
    server_home, client_home = (tmp_path_factory.mktemp(name) for name in ("server", "client"))
    store = KeyStore(server_home / "demon-bridge" / "keys")
    endpoint = f"tcp://127.0.0.1:{free_pair()}"
    engines = client_home / "demon-bridge" / "engines"
    engines.mkdir(parents=True)
    new_client(store, "laptop", engines / "laptop.json", endpoint)
    bound = endpoint.replace("127.0.0.1", "0.0.0.0")
    environment = {"XDG_CONFIG_HOME": str(server_home)}
    with ServerProcess(str(tiny_folder), endpoint=bound, engines=request.param, environment=environment):
        yield store, client_home, endpoint


def play(music, home, endpoint, timeout_s):
    job = start_bounce(
        "pedalboard", music, endpoint=endpoint, lanes={"denoise": 0.6},
        environment=PROMPT_ENVIRONMENT | {"XDG_CONFIG_HOME": str(home), "DEMON_TIMEOUT_S": str(timeout_s)},
    )  # fmt: skip
    return job.finish(300)[0]


def test_with_its_key_a_bounce_is_the_same_and_without_it_is_dry(keyed, music, reference, tmp_path):
    store, home, endpoint = keyed
    assert np.array_equal(play(music, home, endpoint, 120), reference(music, denoise=0.6))
    assert np.array_equal(play(music, tmp_path, endpoint, 3), music)
    store.revoke("laptop")
    assert np.array_equal(play(music, home, endpoint, 3), music)
