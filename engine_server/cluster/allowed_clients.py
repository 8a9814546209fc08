# SPDX-License-Identifier: Apache-2.0
"""Who may connect to the engines: what the key files of the gateway's machine say."""

from __future__ import annotations

import logging

from engine_server.serve.keys import AllowedClient, KeyStore
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.cluster")


class AllowedClients:
    """Who may connect, from this machine's key files. Called on the fleet's thread. Raises DemonError `E_KEYS` when made."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._found = store.clients()
        self._seen = self._complained_of = store.clients_stamp()

    def __call__(self) -> tuple[AllowedClient, ...]:
        """As at the last time that the list could be read: one wrong `chmod` must not end everybody's music."""
        stamp = self._store.clients_stamp()
        if stamp != self._seen:
            try:
                self._found, self._seen = self._store.clients(), stamp
            except DemonError as error:  # and is read again the next time
                if stamp != self._complained_of:
                    log.error("the engines keep the list of clients that they have: %s", error)
                self._complained_of = stamp
        return self._found
