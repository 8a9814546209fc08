# SPDX-License-Identifier: Apache-2.0
"""Who gets in: CURVE on the server's sockets, and the gate that knows the keys that are allowed.

Order at start: `check_bind`; if it says so, `Gate.start` on the sockets' context; `secure` each socket; bind. At the end:
`Gate.stop`, then the context. Without keys (on loopback) nothing of a peer is known, and `user_of` must not be asked: a peer
without CURVE can claim any user id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import zmq
from zmq.auth.thread import ThreadAuthenticator

from engine_server.serve.endpoint import parse_endpoint
from engine_server.serve.keys import KeyStore
from engine_server.serve.logs import hide
from shared_protocol.errors import DemonError

DOMAIN = "demon-bridge"
HANDSHAKE_MS = 5_000
"""A connection that has not shown a key by then is closed. Two round trips are enough; a slow satellite needs 2 s."""
RELOAD_S = 1.0
REFUSALS_LOGGED_EVERY_S = 10.0
THIS_MACHINE = "(this machine)"
"""Who comes with the server's own key, which is always allowed; no client can have this name."""
log = logging.getLogger("demon.security")


def check_bind(endpoint: str, store: KeyStore) -> bool:
    """Whether sockets bound there must be secured: False on loopback, which needs no keys, else True.

    Raises DemonError `E_BIND` for other addresses while no client has a key, and for what is no address; `E_KEYS` for key
    files that cannot be trusted.
    """
    address = parse_endpoint(endpoint)
    if address is None:
        raise DemonError("E_BIND", f"{endpoint!r} is no address to listen on; give tcp://ADDRESS:PORT")
    if address.is_loopback:
        return False
    if not store.clients():
        port = address.port or "PORT"
        raise DemonError(
            "E_BIND",
            f"{endpoint} can be reached from other machines, and no client has a key; for each client run "
            f"`demon keys new NAME --out NAME.json --endpoint tcp://THIS_HOST:{port}`, put NAME.json into "
            "~/.config/demon-bridge/engines on its machine, and start again",
        )
    return True


def secure(socket: zmq.Socket[bytes], store: KeyStore) -> None:
    """Let only peers with an allowed key connect to a socket that will be bound. Raises DemonError `E_KEYS`.

    Refuses everybody while no gate runs in the socket's context (otherwise any key would do).
    """
    pair = store.server()
    hide(pair.secret)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def user_of(frames: Sequence[zmq.Frame]) -> str:
    """Who sent a message that a secured socket received with `copy=False`: the public key in Z85, empty if unknown.

    The same on every secured socket of the server, whatever routing id the peer chose.
    """
    try:
        user = frames[-1].get("User-Id")
    except zmq.ZMQError:
        return ""
    return user if isinstance(user, str) else ""


class Gate:
    """Answers, for every connection to the secured sockets of a context, whether its key is allowed.

    The list of clients is read again when its file has changed, so a key that is revoked opens no new connection from then on.
    For connections that exist, ask `is_allowed`. A list that cannot be read changes nothing (the log says so): what was
    allowed before stays allowed, since a full disk or one wrong `chmod` must not end everybody's music.
    `start` and `stop` belong to the thread that made it; the questions to any.
    """

    def __init__(self, context: zmq.Context, store: KeyStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._own = store.own_keys()
        self._names = {client.public: client.name for client in store.clients()}
        self._seen = self._complained_of = store.clients_stamp()
        self._looked_at = clock()
        self._refusals, self._told_at = 0, -REFUSALS_LOGGED_EVERY_S
        self._authenticator = ThreadAuthenticator(context, log=logging.getLogger("demon.security.zap"))
        self._authenticator.configure_curve_callback(DOMAIN, self)

    def start(self) -> None:
        """Answer from now on, on a thread of its own. Before the sockets are bound."""
        self._authenticator.start()

    def stop(self) -> None:
        """End the thread; connections that come now are refused. Before the context is destroyed."""
        self._authenticator.stop()

    def is_running(self) -> bool:
        """Whether connections get an answer."""
        return self._authenticator.is_alive()

    def is_allowed(self, user: str) -> bool:
        """Whether a user id, as `user_of` gives it, is of an allowed client now. Looks at the file at most once a second."""
        return self._find(user, at_once=False) is not None

    def is_own(self, user: str) -> bool:
        """Whether it is the server's own key: of whoever may read the server's files."""
        return user in self._own

    def name_of(self, user: str) -> str:
        """What the client is called here, or the first digits of its key: for logs."""
        return self._find(user, at_once=False) or f"key {user[:8]}"

    def callback(self, domain: str, key: bytes) -> bool:
        """The authenticator's question, on its thread. Never raises: that would end the thread, and refuse everybody."""
        try:
            public = key.decode("ascii", "replace")
            name = self._find(public, at_once=True)
            if name is None:
                self._note_refusal(public)
            else:
                log.info("%s connects", name)
            return name is not None
        except Exception:
            log.exception("a connection is refused")
            return False

    def _find(self, public: str, *, at_once: bool) -> str | None:
        with self._lock:
            now = self._clock()
            if at_once or now - self._looked_at >= RELOAD_S:
                self._looked_at = now
                self._reload()
            return THIS_MACHINE if public in self._own else self._names.get(public)

    def _reload(self) -> None:
        stamp = self._store.clients_stamp()
        if stamp == self._seen:
            return
        try:
            self._names = {client.public: client.name for client in self._store.clients()}
        except DemonError as error:  # and is read again the next time: it may be for want of a file descriptor
            if stamp != self._complained_of:
                log.error("the list of clients stays as it was: %s", error)
            self._complained_of = stamp
            return
        self._seen = stamp
        log.info("%d clients are allowed", len(self._names))

    def _note_refusal(self, public: str) -> None:
        """One line in ten seconds at most: refused clients try again and again, and attackers more often."""
        self._refusals += 1
        now = self._clock()
        if now - self._told_at >= REFUSALS_LOGGED_EVERY_S:
            log.warning(
                "E_KEYS: %d connections refused: their keys are not allowed, the last is %s", self._refusals, public
            )
            self._told_at, self._refusals = now, 0
