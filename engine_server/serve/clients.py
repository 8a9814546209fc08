# SPDX-License-Identifier: Apache-2.0
"""The clients that a server knows: by their control sockets, by their audio sockets, and what each key may still ask."""

from __future__ import annotations

from collections.abc import Iterator

from engine_server.serve.client import Client
from engine_server.serve.limits import Account, Accounts, Limits, Meter
from shared_protocol import messages as m
from shared_protocol.errors import DemonError

MAX_TRACKS = 64
FORGET_AFTER_S = 30.0


class Clients:
    """Belongs to the socket thread."""

    def __init__(self, limits: Limits) -> None:
        self._accounts = Accounts(limits)
        self._by_routing_id: dict[bytes, Client] = {}
        self._by_audio_id: dict[bytes, Client] = {}

    def __len__(self) -> int:
        return len(self._by_routing_id)

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._by_routing_id.values()))

    def find(self, routing_id: bytes, *, is_audio: bool) -> Client | None:
        """Who speaks by a socket of that routing id; None if it is nobody's, or its ticket is void."""
        return (self._by_audio_id if is_audio else self._by_routing_id).get(routing_id)

    def account(self, routing_id: bytes, user: str) -> Account:
        """Of a key, or of a routing id where there are no keys. Raises DemonError `E_BUSY` when there are too many."""
        return self._accounts.of(user or routing_id)

    def meter(self, routing_id: bytes, user: str, client: Client | None) -> Meter:
        """What counts a message: its track's meter, or that of whoever has no track yet. Raises as `account`."""
        return client.meter if client else self.account(routing_id, user).meter

    def open(self, routing_id: bytes, user: str, hello: m.Hello, now: float, *, old: Client | None) -> Client:
        """A new track. old: the one that it replaces, which was forgotten. Raises DemonError `E_BUSY`."""
        if not old and len(self) >= MAX_TRACKS:
            raise DemonError("E_BUSY", f"this server takes {MAX_TRACKS} tracks")
        account = self.account(routing_id, user)
        meter = account.open_track()
        # A new hello does not make up for what came before it.
        client = Client(routing_id, hello, now, user=user, meter=old.meter if old else meter, account=account)
        self._by_routing_id[routing_id] = self._by_audio_id[client.audio_id] = client
        return client

    def forget(self, client: Client) -> None:
        """A client has gone; the engine is told by whoever calls this."""
        client.account.close_track()
        self._by_routing_id.pop(client.routing_id, None)
        self._by_audio_id.pop(client.audio_id, None)

    def silent(self, now: float) -> list[Client]:
        """Those of which nothing was heard for so long that they have gone."""
        return [client for client in self if now - client.last_heard > FORGET_AFTER_S]
