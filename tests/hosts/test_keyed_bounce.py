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


PATIENCE_S = 120
"""What a bounce may wait for an engine: far more than it takes to be refused."""


def play(music, home, endpoint):
    """The result, and how long the bounce took."""
    job = start_bounce(
        "pedalboard", music, endpoint=endpoint, lanes={"denoise": 0.6},
        environment=PROMPT_ENVIRONMENT | {"XDG_CONFIG_HOME": str(home), "DEMON_TIMEOUT_S": str(PATIENCE_S)},
    )  # fmt: skip
    audio, report = job.finish(300)
    return audio, report.bounce_s


def test_with_its_key_a_bounce_is_the_same_and_without_it_is_dry_at_once(keyed, music, reference, tmp_path):
    store, home, endpoint = keyed
    assert np.array_equal(play(music, home, endpoint)[0], reference(music, denoise=0.6))
    keyless, keyless_s = play(music, tmp_path, endpoint)
    store.revoke("laptop")
    revoked, revoked_s = play(music, home, endpoint)
    assert np.array_equal(keyless, music)
    assert np.array_equal(revoked, music)
    assert max(keyless_s, revoked_s) < PATIENCE_S / 2
