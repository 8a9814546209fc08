# SPDX-License-Identifier: Apache-2.0
"""The keys of an engine on a node: its node's own pair, and the clients that the gateway says are allowed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from engine_server.serve.keys import AllowedClient, KeyStore


class NodeKeys(KeyStore):
    """Public keys of clients are held in memory only, and replaced by `pass_on`: the node keeps no list of them. Any thread.

    The pair is that of the node's user, as `demon keys show` there names it, and made when it is first needed.
    """

    def __init__(self, gateway: str) -> None:
        """gateway: the public key of the gateway, which asks for the status of all tracks."""
        super().__init__()
        self._gateway = gateway
        self._clients: tuple[AllowedClient, ...] = ()
        self._version = 0

    def pass_on(self, clients: Sequence[AllowedClient]) -> None:
        """Allow these and nobody else from now on."""
        if (found := tuple(clients)) != self._clients:
            self._clients, self._version = found, self._version + 1

    def clients(self) -> tuple[AllowedClient, ...]:
        """Who may connect."""
        return self._clients

    def own_keys(self) -> frozenset[str]:
        """See KeyStore; the gateway's machine is as good as this one."""
        return super().own_keys() | {self._gateway}

    def clients_stamp(self) -> Hashable:
        """See KeyStore."""
        return self._version
