# SPDX-License-Identifier: Apache-2.0
"""The server's CURVE keys, and those of the clients that it lets in: two files in the folder `keys` beside the settings.

`server.json` holds the server's pair and is made when it is first needed; `clients.json` holds public keys only. Keys travel as
40 characters of Z85. Secrets leave this module as values only: no message, log line or `repr` has one.
"""

from __future__ import annotations

import datetime
import re
import struct
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq
from zmq.utils import z85

from engine_server.folders import config_folder
from engine_server.serve.private_files import (
    check_private_folder,
    is_there,
    locked,
    make_private_folder,
    read_private,
    write_private,
)
from shared_protocol.errors import DemonError

KEY_CHARACTERS, KEY_BYTES = 40, 32
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_CLIENTS = 1024
T = TypeVar("T")


@dataclass(frozen=True)
class KeyPair:
    """A CURVE pair in Z85."""

    public: str
    secret: str = field(repr=False)


class AllowedClient(msgspec.Struct, frozen=True):
    """A client that may connect."""

    name: str
    public: str
    since: str
    """The day it was allowed, in UTC: 2025-01-31."""


class _ClientList(msgspec.Struct, frozen=True):
    clients: list[AllowedClient]


class _ServerPair(msgspec.Struct, frozen=True):
    public: str
    secret: str


class KeyStore:
    """The key files of one folder. Any thread, any process: files are replaced whole, changes wait for one another.

    Every method raises DemonError `E_KEYS` for files that others may read, that are damaged, or that cannot be read or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or config_folder() / "keys"
        self.server_file, self.clients_file = self.folder / "server.json", self.folder / "clients.json"

    def has_server(self) -> bool:
        """Whether the server has a pair."""
        return self.find_server() is not None

    def find_server(self) -> KeyPair | None:
        """The server's pair, None if it has none yet."""
        if not is_there(self.folder):
            return None
        check_private_folder(self.folder)
        content = read_private(self.server_file)
        if content is None:
            return None
        pair = _decode(content, _ServerPair, self.server_file, _SERVER_REMEDY)
        if not (is_key(pair.public) and is_key(pair.secret) and _public_of(pair.secret) == pair.public):
            raise DemonError("E_KEYS", f"{self.server_file} does not hold a pair of keys; {_SERVER_REMEDY}")
        return KeyPair(pair.public, pair.secret)

    def server(self) -> KeyPair:
        """The server's pair, made now if it has none yet."""
        make_private_folder(self.folder)
        with locked(self.folder):
            if found := self.find_server():
                return found
            pair = make_pair()
            write_private(self.server_file, msgspec.json.encode(_ServerPair(pair.public, pair.secret)))
        return pair

    def clients(self) -> tuple[AllowedClient, ...]:
        """Who may connect, in the order they were allowed."""
        if not is_there(self.folder):
            return ()
        check_private_folder(self.folder)
        content = read_private(self.clients_file)
        if content is None:
            return ()
        clients = _decode(content, _ClientList, self.clients_file, _CLIENTS_REMEDY).clients
        if not all(NAMES.fullmatch(client.name) and is_key(client.public) for client in clients):
            raise DemonError("E_KEYS", f"{self.clients_file} names a client without a name or key; {_CLIENTS_REMEDY}")
        return tuple(clients)

    def own_keys(self) -> frozenset[str]:
        """Public keys of whoever may connect besides the clients, and is told of all tracks: this machine."""
        return frozenset([self.server().public])

    def clients_stamp(self) -> Hashable:
        """What changes whenever the list of clients does. Raises nothing."""
        try:
            found = self.clients_file.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)

    def allow(self, name: str, public: str, *, today: datetime.date | None = None) -> None:
        """Let a client in. Refuses a name or key that is there already, a malformed one, and more than 1024 clients."""
        check_name(name)
        if not is_key(public):
            raise DemonError(
                "E_KEYS", f"a public key has {KEY_CHARACTERS} characters of Z85; quote it with ' in a shell"
            )
        make_private_folder(self.folder)
        with locked(self.folder):
            clients = self.clients()
            for client in clients:
                if client.name == name:
                    raise DemonError("E_KEYS", f"{name} is allowed already; run `demon keys revoke {name}` first")
                if client.public == public:
                    raise DemonError("E_KEYS", f"this key is allowed already, as {client.name}")
            if len(clients) >= MOST_CLIENTS:
                raise DemonError("E_KEYS", f"{MOST_CLIENTS} clients are allowed; revoke some first")
            since = (today or datetime.datetime.now(datetime.UTC).date()).isoformat()
            self._write([*clients, AllowedClient(name, public, since)])

    def revoke(self, name: str) -> None:
        """Let a client in no longer."""
        clients = self.clients()
        if all(client.name != name for client in clients):
            known = ", ".join(client.name for client in clients) or "nobody"
            raise DemonError("E_KEYS", f"no client is called {name!r}; allowed: {known}")
        with locked(self.folder):
            self._write([client for client in self.clients() if client.name != name])

    def _write(self, clients: list[AllowedClient]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_ClientList(clients)), indent=2)
        write_private(self.clients_file, content + b"\n")


_SERVER_REMEDY = "restore it from a copy, or delete it and give every client a new credential file (`demon keys new`)"
_CLIENTS_REMEDY = "restore it from a copy, or delete it and allow every client again"


def make_pair() -> KeyPair:
    """A new pair, from the system's random numbers."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def check_name(name: str) -> None:
    """Raise DemonError `E_KEYS` for what cannot be a client's name."""
    if not NAMES.fullmatch(name):
        raise DemonError("E_KEYS", f"{name!r}: a name has 1 to 64 letters, digits, '.', '_' or '-', no sign first")


def is_key(text: str) -> bool:
    """Whether a text is a key in Z85: 40 characters that stand for 32 bytes."""
    if len(text) != KEY_CHARACTERS or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == KEY_BYTES
    except (KeyError, struct.error):  # no character of Z85; five of them that stand for more than 32 bits
        return False


def _public_of(secret: str) -> str:
    return zmq.curve_public(secret.encode()).decode()


def _decode(content: bytes, kind: type[T], path: Path, remedy: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # whose message is left out: it might quote
        raise DemonError("E_KEYS", f"{path} is damaged; {remedy}") from None
