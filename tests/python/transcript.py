# SPDX-License-Identifier: Apache-2.0
"""The transcripts of SPEC.md, section 8: its notation, and a replay against a server."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque

import msgspec
import numpy as np
import zmq

from engine_server.serve.endpoint import audio_endpoint
from engine_server.tracks.references import reference_hash
from shared_protocol import messages as m
from shared_protocol.codec import decode

PATIENCE_S = 120.0
REPEAT_S, ALIVE_S, NOTHING_S = 0.25, 5.0, 0.5
ANY = object()
BY_AUDIO = {cls.__name__.lower() for cls in m.ORDERED}
_KEY = re.compile(r"(\w+)=")
_NAME = re.compile(r"\$(\w+)")
_JSON = json.JSONDecoder()


class Unbound(str):
    """The name of a value that this line learns."""


def parse_fields(text):
    """Fields of a line and the words of its payloads: `({key: value}, [[word, ...], ...])`."""
    fields, payloads, place = {}, [], 0
    while place < len(text) and text[place] != "#":
        if text[place] == " ":
            place += 1
        elif text[place] == "[":
            stop = text.index("]", place)
            payloads.append(text[place + 1 : stop].split())
            place = stop + 1
        else:
            key = _KEY.match(text, place)
            assert key, f"not a field: {text[place:]!r}"
            fields[key[1]], place = _value(text, key.end())
    return fields, payloads


def _value(text, place):
    if text[place] == "*":
        return ANY, place + 1
    if name := _NAME.match(text, place):
        return Unbound(name[1]), name.end()
    return _JSON.raw_decode(text, place)


def transcripts(document):
    """Names and lines of all transcripts; a line that is indented goes on with the one before it."""
    for name, body in re.findall(r"^```transcript (.+)\n((?:.*\n)*?)```", document, re.M):
        lines = []
        for line in body.splitlines():
            if line.startswith(" ") and lines:
                lines[-1] += " " + line.strip()
            elif line and not line.startswith("#"):
                lines.append(line)
        yield name, lines


def tone(samples, rate, first=0):
    """What `[audio]` is: `[2, samples]`, a function of the position."""
    t = (first + np.arange(samples)) / rate
    return np.stack([0.3 * np.sin(700 * t), 0.2 * np.sin(2000 * t)]).astype("<f4")


class Replay:
    """Plays the client's part against a server that can be killed, stopped and started, and compares what the server says.

    server: has `endpoint`, `kill()`, `stop()` and `start()`.
    """

    def __init__(self, server, names):
        self._server = server
        self._names = dict(names)
        """Values that have a name."""
        self._hello = {"rate": 48_000}
        self._context = zmq.Context()
        self._id = b"c" + os.urandom(16)
        self._open_sockets()

    def close(self):
        self._context.destroy(linger=0)

    def play(self, lines):
        for line in lines:
            try:
                self._play(line)
            except Exception as error:
                error.add_note(f"at the line: {line}")
                raise

    def _play(self, line):
        if found := re.fullmatch(r"C (?:(control|audio|old audio) )?> (.*)", line):
            self._say(found[1], found[2])
        elif line == "S > nothing":
            self._expect_nothing()
        elif line.startswith("S > "):
            self._expect(line.removeprefix("S > "))
        elif line == "...":
            self._more_windows = True
        elif found := re.fullmatch(r"let (\w+) = (.*)", line):
            self._names[found[1]] = self._define(found[2])
        else:
            {
                "!! the server is killed": self._server.kill,
                "!! the server stops": self._server.stop,
                "!! the server starts": self._server.start,
                "!! new sockets": self._open_sockets,
            }[line]()

    def _define(self, text):
        if found := re.fullmatch(r"reference of (\d+) samples at (\d+) Hz", text):
            return reference_hash(tone(int(found[1]), int(found[2])), int(found[2]))
        return json.loads(self._filled(text))

    def _filled(self, text):
        """A line with the values of the names that are known."""
        known = self._names | {"received": self._received}
        return _NAME.sub(lambda name: json.dumps(known[name[1]]) if name[1] in known else name[0], text)

    # The client's part

    def _open_sockets(self):
        self._context.destroy(linger=0)
        self._context = zmq.Context()
        self._sockets = {"control": self._socket(self._id, self._server.endpoint)}
        self._queue = deque()
        self._seen = set()
        self._more_windows = False
        self._received, self._ping, self._ping_at, self._alive_at = 0, None, 0.0, time.monotonic()

    def _socket(self, routing_id, endpoint):
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.connect(endpoint)
        return socket

    def _say(self, place, text):
        kind, _, rest = self._filled(text).partition(" ")
        if kind == "[hex":
            self._sockets[place].send(bytes.fromhex(rest.rstrip("]")))
            return
        fields, payloads = parse_fields(rest)
        if kind == "hello":
            self._hello = fields
        parts = [msgspec.msgpack.encode({"type": kind, **fields}), *(self._payload(w, fields) for w in payloads)]
        self._sockets[place or ("audio" if kind in BY_AUDIO else "control")].send_multipart(parts)
        if kind == "ping" and place is None:
            self._ping, self._ping_at = parts, time.monotonic()

    def _payload(self, words, fields):
        size, count = self._hello["rate"] // 25, fields.get("count")
        match words:
            case ["audio"] if "total" in fields:
                return tone(count, fields["rate"], fields["first"]).tobytes()
            case ["audio"]:
                return tone(count * size, self._hello["rate"], fields["frame"] * size).tobytes()
            case ["silence"]:
                return bytes(2 * count * size * 4)
            case ["nan"]:
                return np.full((2, count * size), np.nan, "<f4").tobytes()
            case ["lanes", *values]:
                return np.tile(np.array(values, "<f4"), count).tobytes()
            case ["edits", *values]:
                return np.array(values, "<f4").tobytes()
            case ["zeros", length]:
                return bytes(int(length))
        raise AssertionError(f"no payload: {words}")

    # The server's part

    def _expect(self, text):
        kind, _, rest = self._filled(text).partition(" ")
        wanted = {"type": kind} | parse_fields(rest)[0]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            header = self._next()
            if header is None:
                self._stay_alive(wanted)
            elif self._matches(wanted, header):
                self._more_windows = False
                return
            else:
                assert self._may_come(header), f"{header} came where {wanted} was expected"
        raise AssertionError(f"{wanted} has not come")

    def _expect_nothing(self):
        until = time.monotonic() + NOTHING_S
        while time.monotonic() < until:
            header = self._next()
            assert header is None or self._may_come(header), f"{header} came where nothing was expected"

    def _stay_alive(self, wanted):
        """A ping is said again until its answer is the one expected; while others wait, rarely."""
        now = time.monotonic()
        is_repeat = wanted["type"] == "pong" and wanted.get("number") and now - self._ping_at > REPEAT_S
        if self._ping and (is_repeat or now - self._ping_at > ALIVE_S):
            self._sockets["control"].send_multipart(self._ping)
            self._ping_at = now

    def _next(self):
        if not self._queue:
            for socket in zmq.select(list(self._sockets.values()), [], [], 0.05)[0]:
                self._queue.append(self._take(socket.recv_multipart()))
        return self._queue.popleft() if self._queue else None

    def _take(self, parts):
        rate, lanes = self._hello["rate"], len(self._hello.get("lanes", ()))
        decode(parts, rate=rate, lane_count=lanes)  # whatever comes is a whole and valid message
        header = msgspec.msgpack.decode(parts[0])
        if header["type"] == "welcome":
            if "audio" in self._sockets:
                self._sockets["old audio"] = self._sockets["audio"]
            ticket = bytes.fromhex(header["ticket"])
            self._sockets["audio"] = self._socket(b"a" + ticket, audio_endpoint(self._server.endpoint))
            self._received = 0
        if header["type"] == "window":
            self._received += header["count"]
        return header

    def _matches(self, wanted, header):
        learnt = {}
        for key, value in wanted.items():
            if isinstance(value, Unbound):
                learnt[str(value)] = header.get(key)
            elif value is not ANY and (key not in header or header[key] != value):
                return False
        self._names |= learnt
        self._note(header)
        return True

    def _note(self, header):
        if header["type"] == "window":
            self._seen.add((header["epoch"], header["take"], header["frame"]))

    def _may_come(self, header):
        """What may come at any time: progress, pongs, windows that come again, and others where `...` stands for them."""
        if header["type"] == "window":
            is_repeat = (header["epoch"], header["take"], header["frame"]) in self._seen
            self._note(header)
            return is_repeat or self._more_windows
        return header["type"] in ("progress", "pong")
