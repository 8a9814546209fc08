# SPDX-License-Identifier: Apache-2.0
"""Key files: private, whole, refused when they are not; and the commands, which print no secret."""

from __future__ import annotations

import datetime
import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from engine_server.cli import app
from engine_server.folders import config_folder, data_folder
from engine_server.serve.credentials import Credentials, new_client, read_credentials
from engine_server.serve.keys import KeyPair, KeyStore, is_key, make_pair
from engine_server.serve.private_files import write_private
from shared_protocol.errors import DemonError

ENDPOINT = "tcp://studio:47800"


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "demon-bridge"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refused(call, code="E_KEYS"):
    with pytest.raises(DemonError) as raised:
        call()
    assert raised.value.code == code
    return raised.value.message


def demon_keys(*arguments):
    done = CliRunner().invoke(app, ["keys", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_folders_are_those_of_the_plugin(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_folder() == tmp_path / "demon-bridge"
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert data_folder() == Path.home() / ".local" / "share" / "demon-bridge"


def test_the_servers_pair_is_made_once_and_is_private(store):
    assert store.find_server() is None
    assert not store.folder.exists()
    before = os.umask(0)  # the most generous that a user may have
    try:
        pair = store.server()
    finally:
        os.umask(before)
    assert zmq.curve_public(pair.secret.encode()).decode() == pair.public
    assert (mode(store.folder), mode(store.server_file)) == (0o700, 0o600)
    assert KeyStore(store.folder).server() == pair
    assert [path.name for path in store.folder.iterdir()] == ["server.json"]


def test_two_processes_that_need_the_pair_at_once_get_the_same(store):
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.server())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_clients_are_allowed_and_revoked(store):
    pairs = {name: make_pair() for name in ("laptop", "studio.2")}
    for name, pair in pairs.items():
        store.allow(name, pair.public, today=datetime.date(2025, 1, 31))
    assert [(c.name, c.public, c.since) for c in store.clients()] == [
        (name, pair.public, "2025-01-31") for name, pair in pairs.items()
    ]
    assert mode(store.clients_file) == 0o600
    assert "allowed already" in refused(lambda: store.allow("laptop", make_pair().public))
    assert "as laptop" in refused(lambda: store.allow("other", pairs["laptop"].public))
    store.revoke("laptop")
    assert [client.name for client in store.clients()] == ["studio.2"]
    assert "studio.2" in refused(lambda: store.revoke("laptop"))


def test_clients_that_are_allowed_at_once_are_all_there(store):
    threads = [threading.Thread(target=store.allow, args=(f"c{k}", make_pair().public)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.name for client in store.clients()} == {f"c{k}" for k in range(12)}


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../x", "é", "a" * 65, "[red]"])
def test_names_are_plain(store, name):
    refused(lambda: store.allow(name, make_pair().public))


@pytest.mark.parametrize("key", ["", "x" * 39, "x" * 41, "~" * 40, "é" * 40, "#" * 40, " " * 40])
def test_keys_are_keys(store, key):
    assert not is_key(key)
    refused(lambda: store.allow("a", key))


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def other_shape(path):
    path.write_text("[1, 2]")


def not_text(path):
    path.write_bytes(b"\xff\xfe\x00")


def bad_key(path):
    path.write_text('{"public": "x", "secret": "y", "clients": [{"name": "a", "public": "x", "since": ""}]}')


def huge(path):
    path.write_bytes(b" " * (2**20 + 1))


@pytest.mark.parametrize("damage", [half, empty, other_shape, not_text, bad_key, huge])
@pytest.mark.parametrize("name", ["server_file", "clients_file"])
def test_a_damaged_file_is_named_and_kept(store, damage, name):
    pair = store.server()
    store.allow("laptop", make_pair().public)
    path = getattr(store, name)
    damage(path)
    kept = path.read_bytes()
    reads = [store.server, store.find_server] if name == "server_file" else [store.clients, lambda: store.revoke("a")]
    for read in reads:
        message = refused(read)
        assert str(path) in message
        assert pair.secret not in message
    assert path.read_bytes() == kept


def test_a_pair_of_two_pairs_is_refused(store):
    store.server()
    write_private(store.server_file, json.dumps({"public": make_pair().public, "secret": make_pair().secret}).encode())
    assert "does not hold a pair" in refused(store.server)


@pytest.mark.parametrize("bits", [0o604, 0o620, 0o644, 0o640, 0o601])
def test_files_that_others_may_read_are_refused_with_what_to_run(store, bits):
    store.server()
    store.allow("a", make_pair().public)
    for path, read in ((store.server_file, store.server), (store.clients_file, store.clients)):
        path.chmod(bits)
        assert f"chmod 600 '{path}'" in refused(read)
    store.folder.chmod(0o755)
    assert f"chmod 700 '{store.folder}'" in refused(store.clients)


def test_links_pipes_and_folders_are_no_key_files(store, tmp_path):
    store.server()
    elsewhere = tmp_path / "elsewhere"
    store.server_file.rename(elsewhere)
    store.server_file.symlink_to(elsewhere)
    refused(store.server)
    store.server_file.unlink()
    os.mkfifo(store.server_file, 0o600)
    assert "not a plain file" in refused(store.server)
    store.server_file.unlink()
    store.server_file.mkdir(0o700)
    assert "not a plain file" in refused(store.server)
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused(KeyStore(tmp_path / "file").clients)


def test_a_folder_that_cannot_even_be_seen_is_an_error_of_keys(tmp_path):
    """As one below a folder that this user may not enter: not every OSError means that it is not there."""
    store = KeyStore(tmp_path / ("x" * 300))
    for ask in (store.clients, store.find_server):
        with pytest.raises(DemonError, match="E_KEYS"):
            ask()


def test_files_of_other_users_are_refused(store, monkeypatch):
    store.server()
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert "chown 12345" in refused(store.server)


def test_a_write_that_fails_leaves_what_was_there(store, monkeypatch):
    store.allow("a", make_pair().public)
    before = store.clients_file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert "No space left" in refused(lambda: store.allow("b", make_pair().public))
        assert store.clients_file.read_bytes() == before
        assert [path.name for path in store.folder.iterdir()] == ["clients.json"]


def test_a_credential_file_has_what_a_plugin_needs(store, tmp_path):
    out = tmp_path / "laptop.json"
    made = new_client(store, "laptop", out, ENDPOINT)
    assert mode(out) == 0o600
    assert read_credentials(out) == made
    assert json.loads(out.read_text()) == {
        "endpoint": ENDPOINT, "server": store.server().public, "public": made.public, "secret": made.secret,
    }  # fmt: skip
    assert zmq.curve_public(made.secret.encode()).decode() == made.public
    assert store.clients()[0].public == made.public
    half(out)
    assert made.secret not in refused(lambda: read_credentials(out))
    out.chmod(0o644)
    refused(lambda: read_credentials(out))
    refused(lambda: read_credentials(tmp_path / "none.json"))


def test_a_credential_file_never_replaces_one(store, tmp_path):
    out = tmp_path / "laptop.json"
    out.write_text("mine")
    refused(lambda: new_client(store, "laptop", out, ENDPOINT), "E_OUTPUT")
    refused(lambda: new_client(store, "laptop", tmp_path / "no" / "folder.json", ENDPOINT), "E_OUTPUT")
    assert out.read_text() == "mine"
    assert store.clients() == ()


def test_a_client_that_cannot_be_allowed_gets_no_file(store, tmp_path):
    store.allow("laptop", make_pair().public)
    refused(lambda: new_client(store, "laptop", tmp_path / "laptop.json", ENDPOINT))
    assert not (tmp_path / "laptop.json").exists()


@pytest.mark.parametrize(
    "endpoint", ["", "studio", "tcp://*:1", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://a:0", "tcp://a:65536", "ipc://x"]
)
def test_a_credential_file_names_where_to_connect(store, tmp_path, endpoint):
    refused(lambda: new_client(store, "laptop", tmp_path / "x.json", endpoint), "E_ENDPOINT")
    assert store.clients() == ()


def test_secrets_have_no_repr():
    pair = make_pair()
    for text in (repr(pair), str(pair), f"{pair}", repr(Credentials(ENDPOINT, pair.public, pair.public, pair.secret))):
        assert pair.secret not in text
    assert pair == KeyPair(pair.public, pair.secret)


def test_no_command_prints_or_logs_a_secret(home, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    key = next(pair.public for pair in iter(make_pair, None) if pair.public.startswith("-"))
    runs = [
        demon_keys("show"),
        demon_keys("new", "laptop", "--out", tmp_path / "laptop.json", "--endpoint", ENDPOINT),
        demon_keys("new", "laptop", "--out", tmp_path / "again.json"),
        demon_keys("allow", "minus", key),
        demon_keys("list"),
        demon_keys("revoke", "minus"),
        demon_keys("revoke", "minus"),
    ]
    assert [done.exit_code for done in runs] == [0, 0, 1, 0, 0, 0, 1]
    store = KeyStore()
    assert store.folder == home / "keys"
    assert runs[0].stdout.strip() == store.server().public
    assert key in runs[4].stdout
    assert read_credentials(tmp_path / "laptop.json").public in runs[4].stdout
    assert [client.name for client in store.clients()] == ["laptop"]
    (home / "keys" / "server.json").chmod(0o644)
    runs.append(demon_keys("show"))
    (home / "keys" / "server.json").chmod(0o600)
    half(tmp_path / "laptop.json")
    said = "".join(done.output for done in runs) + caplog.text + "".join(capfd.readouterr())
    assert "E_KEYS" in said
    secrets = [store.server().secret, json.loads((home / "keys" / "server.json").read_text())["secret"]]
    assert all(secret not in said for secret in secrets)


def test_a_credentials_secret_is_nowhere_but_in_its_file(home, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    done = demon_keys("new", "laptop", "--out", tmp_path / "laptop.json")
    secret = read_credentials(tmp_path / "laptop.json").secret
    assert secret not in done.output + caplog.text + "".join(capfd.readouterr())
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text()]
    assert holders == [tmp_path / "laptop.json"]
