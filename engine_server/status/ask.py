# SPDX-License-Identifier: Apache-2.0
"""Asking servers how they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from engine_server.folders import config_folder
from engine_server.serve.credentials import read_credentials
from engine_server.serve.endpoint import Address, client_endpoint, parse_endpoint
from engine_server.serve.greeting import ask_greeting
from engine_server.serve.keys import KeyPair, KeyStore
from engine_server.serve.report import EngineReport, GatewayReport, Report, read_report
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.errors import DemonError
from shared_protocol.timebase import MAX_RATE

ANSWER_MS = 3000
"""An engine whose threads are all busy still answers within a tenth of it."""


@dataclass(frozen=True)
class Keys:
    """What opens a secured server. server: its public key, in Z85; own: the pair to come with."""

    server: str
    own: KeyPair


@dataclass(frozen=True)
class Answer:
    """What came of asking a server: its report, or why there is none."""

    endpoint: str
    report: Report | None
    error: str = ""


def ask_all(endpoint: str) -> list[Answer]:
    """The server at an endpoint, and behind a gateway all its engines: in this order, whether they answer or not.

    Raises DemonError: `E_ENDPOINT` for what is no address, `E_LINK` if the first server does not answer, `E_KEYS` if it wants a
    key that this user does not have, or if the connection would not be encrypted beyond this machine.
    """
    endpoint = client_endpoint(endpoint)
    keys = find_keys(endpoint)
    first = ask(endpoint, keys)
    answers = [Answer(endpoint, first)]
    if isinstance(first, GatewayReport):
        host = _address(endpoint).host
        for place in first.engines:
            engine = place.endpoint.replace("tcp://*:", f"tcp://{host}:")
            answers.append(_try(engine, Keys(place.key, keys.own) if keys and place.key else None))
    return answers


def engines_of(answers: list[Answer]) -> list[tuple[str, EngineReport]]:
    """The engines among the answers."""
    return [(answer.endpoint, answer.report) for answer in answers if isinstance(answer.report, EngineReport)]


def _try(endpoint: str, keys: Keys | None) -> Answer:
    try:
        return Answer(endpoint, ask(endpoint, keys))
    except DemonError as error:
        return Answer(endpoint, None, str(error))


def ask(endpoint: str, keys: Keys | None) -> Report:
    """One server's report. Raises as `ask_all`."""
    if keys is None and not _address(endpoint).is_loopback:
        raise DemonError("E_KEYS", f"{endpoint} does not encrypt, and is not this machine: it is not asked")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.setsockopt(zmq.ROUTING_ID, b"c" + os.urandom(16))
        if keys:
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret.encode())
        socket.setsockopt(zmq.SNDTIMEO, ANSWER_MS)
        socket.connect(endpoint)
        try:
            socket.send_multipart(encode(Packet(m.Status())))
            has_answer = bool(socket.poll(ANSWER_MS))
        except zmq.Again:  # a refused key has no connection any more
            has_answer = False
        if not has_answer:
            hint = ": it does not answer, or does not allow this key" if keys else " does not answer"
            raise DemonError("E_LINK", f"{endpoint}{hint}")
        header = decode(socket.recv_multipart(), rate=MAX_RATE, lane_count=0).header
    if isinstance(header, m.Error):
        raise DemonError(header.code, header.message)
    if not isinstance(header, m.State):
        raise DemonError("E_LINK", f"{endpoint} answers with {type(header).__name__.lower()}: it is another version")
    try:
        return read_report(header)
    except msgspec.MsgspecError as error:
        raise DemonError("E_LINK", f"{endpoint} reports what this version does not know: {error}") from error


def find_keys(endpoint: str, store: KeyStore | None = None, engines: Path | None = None) -> Keys | None:
    """What opens the server that listens there: the credential file of this endpoint, else, since it is this machine's, its own
    pair. None if it takes everybody. Raises DemonError `E_ENDPOINT`, `E_LINK`, `E_KEYS`."""
    address = _address(endpoint)
    mechanism = ask_greeting(address.host.strip("[]"), address.port)
    if not mechanism:
        what = "nothing listens" if mechanism is None else "what listens is no engine"
        raise DemonError("E_LINK", f"{endpoint}: {what} there; see `demon doctor`")
    if mechanism == "NULL":
        return None
    unread: DemonError | None = None
    for path in sorted((engines or config_folder() / "engines").glob("*.json")):
        try:
            found = read_credentials(path)
        except DemonError as error:  # it may be another engine's
            unread = error
            continue
        if found.endpoint == endpoint:
            return Keys(found.server, KeyPair(found.public, found.secret))
    pair = (store or KeyStore()).find_server()
    if pair is None:
        if unread:
            raise unread
        raise DemonError(
            "E_KEYS", f"{endpoint} wants a key: put its credential file into {config_folder() / 'engines'}"
        )
    return Keys(pair.public, pair)


def _address(endpoint: str) -> Address:
    address = parse_endpoint(endpoint)
    if address is None or address.host == "*" or not address.port:
        raise DemonError("E_ENDPOINT", f"{endpoint!r} is not tcp://HOST:PORT")
    return address
