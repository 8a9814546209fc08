# SPDX-License-Identifier: Apache-2.0
"""`demon keys`: who may connect to this machine's engine from another one. No command prints a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine_server.serve.keys import KeyStore
from shared_protocol import DEFAULT_ENDPOINT

keys_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(help="What the client is called here: letters, digits, '.', '_' and '-'.")]


@keys_app.callback()
def keys() -> None:
    """Who may connect to this engine from other machines."""


@keys_app.command()
def new(
    name: Name,
    out: Annotated[Path, typer.Option(help="Credential file to write; it holds a secret, hand it on privately.")],
    endpoint: Annotated[str, typer.Option(help="tcp://HOST:PORT as the client reaches the engine.")] = DEFAULT_ENDPOINT,
) -> None:
    """Make a client's credential file, and allow the client."""
    from engine_server.serve.credentials import new_client

    new_client(KeyStore(), name, out, endpoint)
    _say(f"{name} is allowed to connect to {endpoint}. Move {out} into ~/.config/demon-bridge/engines on its machine.")


@keys_app.command(context_settings={"ignore_unknown_options": True})  # a key may begin with a minus sign
def allow(name: Name, public_key: Annotated[str, typer.Argument(help="40 characters; quote them with '.")]) -> None:
    """Allow a client that made its own pair of keys."""
    KeyStore().allow(name, public_key)
    _say(f"{name} is allowed")


@keys_app.command()
def revoke(name: Name) -> None:
    """Shut a client out, now and for good."""
    KeyStore().revoke(name)
    _say(f"{name} is allowed no longer")


@keys_app.command(name="list")
def list_clients() -> None:
    """List the clients that are allowed."""
    table = Table("client", "public key", "since")
    for client in KeyStore().clients():
        table.add_row(Text(client.name, overflow="fold"), Text(client.public, no_wrap=True), client.since)
    Console().print(table)


@keys_app.command()
def show() -> None:
    """Print the server's public key, which is made now if there is none."""
    print(KeyStore().server().public)


def _say(text: str) -> None:
    Console(stderr=True).print(Text(text), soft_wrap=True)
