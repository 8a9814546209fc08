# SPDX-License-Identifier: Apache-2.0
"""A client's credential file: everything that a plugin needs to reach a server beyond this machine.

JSON with four texts: `endpoint`, the server's public key as `server`, and the client's own pair as `public` and `secret`, in
Z85. The plugin looks through `*.json` in `~/.config/demon-bridge/engines` for the one whose `endpoint` equals its own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from engine_server.serve.endpoint import EVERYWHERE, parse_endpoint
from engine_server.serve.keys import KeyStore, check_name, is_key, make_pair
from engine_server.serve.private_files import create_private, read_private
from shared_protocol.errors import DemonError


class Credentials(msgspec.Struct, frozen=True):
    """What a credential file holds."""

    endpoint: str
    server: str
    public: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(endpoint={self.endpoint!r}, server={self.server!r}, public={self.public!r})"


def new_client(store: KeyStore, name: str, out: Path, endpoint: str) -> Credentials:
    """Make a client's pair, write its credential file (mode 0600, never over another file), and allow it.

    Raises DemonError: `E_KEYS` (see `KeyStore`), `E_ENDPOINT` for what a client cannot connect to, `E_OUTPUT` for the file.
    Whatever is raised, the client is not allowed and no file is left.
    """
    check_name(name)
    check_client_address(endpoint)
    pair = make_pair()
    credentials = Credentials(endpoint, store.server().public, pair.public, pair.secret)
    try:
        create_private(out, msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n")
    except FileExistsError as error:
        raise DemonError("E_OUTPUT", f"{out} exists; it may hold a key, so it is not replaced") from error
    except OSError as error:
        raise DemonError("E_OUTPUT", f"{out}: {error.strerror}") from error
    try:
        store.allow(name, pair.public)
    except BaseException:
        with contextlib.suppress(OSError):
            out.unlink()
        raise
    return credentials


def read_credentials(path: Path) -> Credentials:
    """A credential file's content. Raises DemonError `E_KEYS` if it is missing, damaged, or others may read it."""
    content = read_private(path)
    if content is None:
        raise DemonError("E_KEYS", f"there is no file {path}")
    try:
        found = msgspec.json.decode(content, type=Credentials)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # whose message is left out: it might quote
        raise DemonError("E_KEYS", f"{path} is no credential file; ask for a new one (`demon keys new`)") from None
    if not all(is_key(key) for key in (found.server, found.public, found.secret)):
        raise DemonError("E_KEYS", f"{path} holds a damaged key; ask for a new file (`demon keys new`)")
    return found


def check_client_address(endpoint: str) -> None:
    """Raise DemonError `E_ENDPOINT` unless a client can connect to it: tcp://HOST:PORT with one host and one port."""
    address = parse_endpoint(endpoint)
    if address is None or address.host == "*" or not address.port:
        raise DemonError("E_ENDPOINT", f"{endpoint!r} is not tcp://HOST:PORT, the address that the client connects to")
    if address.host in EVERYWHERE:
        raise DemonError("E_ENDPOINT", f"{endpoint!r} is where a server listens; name the host that the client reaches")
