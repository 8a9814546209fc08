# SPDX-License-Identifier: Apache-2.0
"""A small client of the protocol, and a server process to talk to: what server tests are driven with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import UnionType

import numpy as np
import zmq

from engine_server.serve.endpoint import audio_endpoint
from engine_server.status.ask import Keys
from engine_server.tracks.references import reference_hash
from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.timebase import samples_per_frame

START_TIMEOUT_S = 120
CONFIG = m.make_config(prompt="strings", seed=7, steps=0, solver="ode")


class ServerProcess:
    """`demon serve` in a process of its own, on a port of its own (kept over restarts)."""

    def __init__(
        self,
        model: str,
        *,
        endpoint: str = "tcp://127.0.0.1:*",
        loras: str | None = None,
        engines: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {})
        self._model = model
        self._loras = loras
        self._engines = engines
        self.endpoint = endpoint
        self.start()

    def start(self) -> None:
        """Start, or start again, and wait until it serves."""
        command = [
            sys.executable,
            "-m",
            "engine_server.cli",
            "serve",
            "--model",
            self._model,
            "--endpoint",
            self.endpoint,
            *(["--loras", self._loras] if self._loras else []),
            *(["--engines", str(self._engines)] if self._engines > 1 else []),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("serving "):
            self.process.wait(START_TIMEOUT_S)
            raise RuntimeError(f"the server did not start: {line!r}")
        self.endpoint = line.split()[1]

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def close(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


SEND_TIMEOUT_MS = 30_000
"""A socket whose key was refused has no connection any more: it would wait for ever."""


class WireClient:
    """One track. `received` keeps every message that came."""

    def __init__(
        self,
        endpoint: str,
        *,
        rate: int = 48_000,
        lanes: tuple[str, ...] = ("denoise",),
        credit: int = 250,
        routing_id: bytes | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.rate, self.lanes, self.credit = rate, lanes, credit
        self.packing: m.Packing = "none"
        """Agreed on at the last welcome: how feeds and references are sent."""
        self.routing_id = routing_id or b"c" + os.urandom(16)
        self.frames = 0
        """Frames of windows that have come since the last welcome."""
        self._home = self._endpoint = endpoint
        self._keys = keys
        self._server_key = ""
        """Of the engine that a gateway has sent us to."""
        self._context = zmq.Context()
        self._control = self._open(self.routing_id, endpoint)
        self._audio: zmq.Socket | None = None
        self._queue: deque[Packet] = deque()
        self.received: list[Packet] = []

    def _open(self, routing_id: bytes, endpoint: str) -> zmq.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        if self._keys:
            socket.curve_serverkey = (self._server_key or self._keys.server).encode()
            socket.curve_publickey = self._keys.own.public.encode()
            socket.curve_secretkey = self._keys.own.secret.encode()
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, header: m.Message, audio=None, lanes=None, edits=None) -> None:
        parts = encode(Packet(header, audio, lanes, edits))
        (self.audio if isinstance(header, m.ORDERED) else self._control).send_multipart(parts)

    @property
    def audio(self) -> zmq.Socket:
        """The audio socket; before a welcome, one with a ticket of our own."""
        if self._audio is None:
            self._take_ticket(os.urandom(16).hex())
        assert self._audio is not None
        return self._audio

    def _take_ticket(self, ticket: str) -> None:
        if self._audio is not None:
            self._audio.close()
        self._audio = self._open(b"a" + bytes.fromhex(ticket), audio_endpoint(self._endpoint))
        self.frames = 0

    def break_audio(self) -> None:
        """End the audio connection, and make another with the same ticket."""
        routing_id = self.audio.getsockopt(zmq.ROUTING_ID)
        self.audio.close(linger=0)
        self._audio = self._open(routing_id, audio_endpoint(self._endpoint))

    def send_raw(self, parts: list[bytes], *, by_audio: bool = False) -> None:
        (self.audio if by_audio else self._control).send_multipart(parts)

    def ping(self, epoch: int = 0, wanted: int = 0, number: int = 0) -> None:
        self.send(m.Ping(number, epoch, wanted, self.frames))

    def _poll(self, timeout_s: float) -> None:
        sockets = [socket for socket in (self._control, self._audio) if socket is not None]
        ready, _, _ = zmq.select(sockets, [], [], timeout_s)
        for socket in ready:
            if socket.closed:  # a welcome has just replaced it
                continue
            packet = decode(socket.recv_multipart(), rate=self.rate, lane_count=len(self.lanes))
            if isinstance(packet.header, m.Welcome):
                self._take_ticket(packet.header.ticket)
                self.packing = packet.header.packing
            if isinstance(packet.header, m.Window):
                self.frames += packet.header.count
            self._queue.append(packet)

    def wait_for(self, kind: type | UnionType, timeout_s: float = 30.0, **fields) -> Packet:
        """The next message of a kind, with the given header fields."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self._queue:
                self._poll(0.1)
                continue
            packet = self._queue.popleft()
            self.received.append(packet)
            header = packet.header
            if isinstance(header, kind) and all(getattr(header, k) == v for k, v in fields.items()):
                return packet
        raise TimeoutError(f"no {kind} {fields} within {timeout_s} s; the last were {self.received[-3:]}")

    def hello(self, **fields) -> Packet:
        """Say hello and wait for the welcome, at the engine that one is sent to if there is a gateway."""
        deadline = time.monotonic() + 120.0
        while True:
            self._greet(self._home, fields)
            answer = self.wait_for(m.Welcome | m.Redirect, timeout_s=120.0)
            if isinstance(answer.header, m.Welcome):
                return answer
            host, _, _ = self._home.rpartition(":")
            self._greet(answer.header.endpoint.replace("tcp://*", host), fields, answer.header.key)
            try:
                return self.wait_for(m.Welcome, timeout_s=3.0)
            except TimeoutError:  # that engine has just died, maybe: whoever sent us there will know by now
                if time.monotonic() > deadline:
                    raise

    def _greet(self, endpoint: str, fields: dict, server_key: str = "") -> None:
        self._server_key = server_key
        if endpoint != self._endpoint:
            self._control.close()
            self._endpoint, self._control = endpoint, self._open(self.routing_id, endpoint)
        self.send(self.hello_header(**fields))

    def hello_header(self, **fields) -> m.Hello:
        given = {
            "protocol": PROTOCOL_VERSION, "client": "test", "rate": self.rate, "mode": "stream", "latency": 150,
            "credit": self.credit, "packing": "none", "lanes": list(self.lanes), "config": CONFIG,
        }  # fmt: skip
        return m.Hello(**(given | fields))

    def feed(self, epoch: int, frame: int, audio, value: float = 0.6) -> None:
        """Feed `[2, n frames]` with every lane at one value."""
        count = audio.shape[1] // samples_per_frame(self.rate)
        lanes = np.full((count, len(self.lanes)), value, dtype=np.float32)
        self.send(m.Feed(epoch, frame, count, self.packing), np.ascontiguousarray(audio), lanes)

    def send_reference(self, audio, rate: int, *, size: int = 65_536) -> str:
        """Send a whole reference; its hash."""
        name, total = reference_hash(audio, rate), audio.shape[1]
        for first in range(0, total, size):
            part = np.ascontiguousarray(audio[:, first : first + size])
            self.send(m.Reference(name, rate, total, first, part.shape[1], self.packing), part)
        return name

    def edit(self, epoch: int, revision: int, *edits) -> None:
        """Send edits: (column, first, stop, value) each."""
        self.send(m.Edit(epoch, revision, len(edits)), edits=np.array(edits, dtype=np.float32))

    def clip(
        self, source, *, epoch: int = 1, kind: str = "loop", start: int = 0, deliver_from: int = 0, value=0.6
    ) -> None:
        """Begin a loop or commit at a frame, feed all of it and end it."""
        size = samples_per_frame(self.rate)
        frames = source.shape[1] // size
        self.send(m.Begin(epoch, kind, start * size, start, deliver_from, kind == "commit"))
        for first in range(0, frames, 32):
            self.feed(epoch, start + first, source[:, first * size : (first + 32) * size], value)
        self.send(m.End(epoch, start + frames))

    def bounce(self, source, *, epoch: int = 1, frames: int) -> np.ndarray:
        """Feed a source and silence after it, acknowledge what comes, and return `[2, frames]`."""
        size = samples_per_frame(self.rate)
        padded = np.pad(source, ((0, 0), (0, 200 * size)))
        self.send(m.Begin(epoch, "stream", 0, 0, 0, True))
        for first in range(0, frames + 160, 32):
            self.feed(epoch, first, padded[:, first * size : (first + 32) * size])
        parts, wanted = [], 0
        while wanted < frames:
            packet = self.wait_for(m.Window, epoch=epoch)
            if packet.header.frame == wanted:
                parts.append(packet.audio)
                wanted += packet.header.count
                self.ping(epoch, wanted)
        return np.concatenate(parts, axis=1)[:, : frames * size]
