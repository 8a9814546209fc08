# SPDX-License-Identifier: Apache-2.0
"""One strange client with both sockets: it says a visit, hears what is answered, and knows what the server has read."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import zmq

from engine_server.serve.endpoint import audio_endpoint
from shared_protocol import messages as m
from shared_protocol.codec import Packet, encode
from tests.fuzz.invariants import codes
from tests.fuzz.visits import After, Said, expects_welcome

ANSWER_S = 60.0
"""For a server that many strange clients keep busy."""
ASK_AGAIN_S = 2.0
PATIENCE_S = 1.0
"""For a window that may never come."""
ANSWERS_TO_HELLO = ("welcome", "E_LATENCY", "E_BUSY", "E_LIMIT")
"""To one that is in order."""
FIRST_MARK = 2**30
"""Epochs by which a peer knows what was read: above all that conversations use."""
FAREWELL = Said(encode(Packet(m.Bye())), by_audio=False, is_odd=False, after=After.READ)


class FindingError(Exception):
    """The server did what it must never do."""


class Peer:
    """Speaks for a routing id of its own. Belongs to one thread; close it."""

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        self.read_odd = 0
        """Damaged messages that the server has read for certain."""
        self.heard: Counter[str] = Counter()
        """Answers by type, errors by code."""
        self._context, self._endpoint = context, endpoint
        self._control_id, self._audio_id = b"c" + os.urandom(16), b"a" + os.urandom(16)
        self._control = self._open(self._control_id, endpoint)
        self._audio = self._open(self._audio_id, audio_endpoint(endpoint))
        self._marks = itertools.count(FIRST_MARK)
        self._unanswered: set[int] = set()
        """Marks."""
        self._said_odd = 0

    def close(self) -> None:
        """Without a word."""
        for socket in (self._control, self._audio):
            socket.close(linger=0)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def visit(self, visit: Sequence[Said]) -> None:
        """Say all of it, and goodbye. Raises FindingError."""
        for said in [*visit, FAREWELL]:
            is_hello = expects_welcome(said)
            if said.after is After.READ or said.is_anew or is_hello:  # connections end, with what was not sent yet
                self._confirm()
            elif said.after is After.HEARD:
                self._hears(("window",), self.heard["window"], PATIENCE_S)
            if said.is_anew:
                self._reopen()
            answered = self._count(ANSWERS_TO_HELLO)
            self._say(said.parts, by_audio=said.by_audio)
            self._said_odd += said.is_odd
            if is_hello and not self._hears(ANSWERS_TO_HELLO, answered, ANSWER_S):
                raise FindingError(f"a hello was not answered in {ANSWER_S:.0f} s")
            self._hear()
        self._confirm()

    def _open(self, routing_id: bytes, endpoint: str) -> zmq.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, int(1000 * ANSWER_S))
        socket.connect(endpoint)
        return socket

    def _reopen(self) -> None:
        self.close()
        self._control = self._open(self._control_id, self._endpoint)
        self._audio = self._open(self._audio_id, audio_endpoint(self._endpoint))

    def _say(self, parts: Sequence[bytes], *, by_audio: bool) -> None:
        try:
            (self._audio if by_audio else self._control).send_multipart(parts)
        except zmq.Again:
            raise FindingError(f"a socket took nothing for {ANSWER_S:.0f} s") from None

    def _count(self, kinds: Sequence[str]) -> int:
        """Answers of these kinds so far."""
        return sum(self.heard[kind] for kind in kinds)

    def _hears(self, kinds: Sequence[str], before: int, timeout_s: float) -> bool:
        """Whether more answers of these kinds come within a time than there were."""
        return self._has(lambda: self._count(kinds) > before, timeout_s)

    def _confirm(self) -> None:
        """Return once the server has read everything that was said by both sockets."""
        for by_audio in (True, False):
            self._mark(by_audio=by_audio)
        self.read_odd += self._said_odd
        self._said_odd = 0

    def _mark(self, *, by_audio: bool) -> None:
        """A socket is read in order: up to a message that belongs to the other one once an error names that message's epoch."""
        until = time.monotonic() + ANSWER_S
        while True:
            mark = next(self._marks)
            self._unanswered.add(mark)
            stray = m.Ping(mark, mark, 0, 0) if by_audio else m.End(mark, 0)
            self._say(encode(Packet(stray)), by_audio=by_audio)
            if self._has(lambda: mark not in self._unanswered, ASK_AGAIN_S):  # noqa: B023, it is asked here and now
                return
            if time.monotonic() > until:
                raise FindingError(f"no answer by the {'audio' if by_audio else 'control'} socket in {ANSWER_S:.0f} s")

    def _has(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                return False
            zmq.select([self._control, self._audio], [], [], 0.1)
            self._hear()
        return True

    def _hear(self) -> None:
        """Everything that has come."""
        for socket in (self._control, self._audio):
            while not socket.closed and socket.poll(0):  # a welcome opens another one for audio
                self._note(socket.recv_multipart()[0])

    def _note(self, header: bytes) -> None:
        answer = msgspec.msgpack.decode(header)
        match answer["type"]:
            case "welcome":
                self._audio.close()
                self._said_odd = 0  # of what was said by that socket some may be lost
                self._audio_id = b"a" + bytes.fromhex(answer["ticket"])
                self._audio = self._open(self._audio_id, audio_endpoint(self._endpoint))
            case "error" if answer["epoch"] in self._unanswered and answer["code"] == "E_UNKNOWN_MESSAGE":
                self._unanswered.remove(answer["epoch"])
                return
            case "error":
                self.heard[answer["code"]] += 1
                if answer["code"] == "E_ENGINE" or answer["code"] not in codes():
                    raise FindingError(f"{answer['code']}: {answer['message']}")
                return
        self.heard[answer["type"]] += 1
