# SPDX-License-Identifier: Apache-2.0
"""Garbage and damaged golden messages to both sockets of a server: `python -m tests.fuzz.fuzz_server tcp://127.0.0.1:47800`.

What the server must do meanwhile is not seen here: `tests/python/test_server_fuzz.py` bounces beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from pathlib import Path

import msgspec
import zmq

from engine_server.serve.endpoint import audio_endpoint
from shared_protocol import messages as m
from shared_protocol import vectors
from shared_protocol.vectors.make import unpack_parts

CONTROL_IDS = 12
"""Far fewer than a server has places: others may still come in."""
AT_ONCE = 10
PAUSE_S = 0.005
RECONNECT_SHARE = 0.02
MOST_PARTS = 6
ODD_VALUES = [0, 1, 2, -1, 25, 2**31 - 1, 2**53, -(2**53), 2**63, 0.5, float("nan"), "", "x" * 5000, [], {}, None]
BY_AUDIO = {cls.__name__.lower() for cls in m.ORDERED}


class Fuzzer:
    """One thread. Everything that it sends is a function of the seed and of the server's tickets."""

    def __init__(self, endpoint: str, seed: int) -> None:
        self.sent = 0
        self._endpoint = endpoint
        self._random = random.Random(seed)
        self._context = zmq.Context()
        self._controls = [b"c" + self._random.randbytes(16) for _ in range(CONTROL_IDS)]
        self._sockets: dict[bytes, zmq.Socket] = {}
        self._tickets: dict[bytes, bytes] = {}
        """Audio ids by the control ids that they were given to."""
        folder = Path(vectors.__file__).parent
        self._golden = [unpack_parts(path.read_bytes()) for path in sorted(folder.glob("*.bin"))]

    def close(self) -> None:
        self._context.destroy(linger=0)

    def send_some(self) -> None:
        """A handful of messages, and whatever has been answered."""
        for _ in range(AT_ONCE):
            control = self._random.choice(self._controls)
            parts = self._message()
            is_audio = self._belongs_to_audio(parts) != (self._random.random() < 0.1)
            name = self._tickets.get(control, b"a" + control[1:]) if is_audio else control
            with contextlib.suppress(zmq.Again):
                self._socket(name).send_multipart(parts, zmq.DONTWAIT)
                self.sent += 1
            self._hear(control)
            reconnects = self._random.random() < RECONNECT_SHARE
            if reconnects and (socket := self._sockets.pop(name, None)):  # what was heard may have replaced it
                socket.close(linger=0)

    def _socket(self, name: bytes) -> zmq.Socket:
        if name not in self._sockets:
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.ROUTING_ID, name)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, self._random.choice([1, 1000]))
            socket.connect(audio_endpoint(self._endpoint) if name[:1] == b"a" else self._endpoint)
            self._sockets[name] = socket
        return self._sockets[name]

    def _hear(self, control: bytes) -> None:
        """Learn a ticket; windows are left unread."""
        with contextlib.suppress(zmq.Again, KeyError):
            header = msgspec.msgpack.decode(self._sockets[control].recv_multipart(zmq.DONTWAIT)[0])
            if header["type"] == "welcome":
                if old := self._sockets.pop(self._tickets.get(control, b""), None):
                    old.close(linger=0)
                self._tickets[control] = b"a" + bytes.fromhex(header["ticket"])

    @staticmethod
    def _belongs_to_audio(parts: list[bytes]) -> bool:
        try:
            return str(msgspec.msgpack.decode(parts[0]).get("type")) in BY_AUDIO
        except (msgspec.DecodeError, ValueError, AttributeError, IndexError, RecursionError):
            return False

    def _message(self) -> list[bytes]:
        draw = self._random
        if draw.random() < 0.1:
            return [draw.randbytes(draw.choice([0, 1, 7, 300, 5000])) for _ in range(draw.randint(1, MOST_PARTS))]
        parts = list(draw.choice(self._golden))
        for _ in range(draw.choice([0, 1, 1, 2, 5])):
            parts = self._damaged(parts)
        return parts[: 2 * MOST_PARTS] or [b""]

    def _damaged(self, parts: list[bytes]) -> list[bytes]:
        draw = self._random
        k = draw.randrange(len(parts)) if parts else 0
        match draw.randrange(7):
            case 0 if parts and parts[k]:
                part = bytearray(parts[k])
                part[draw.randrange(len(part))] ^= 1 << draw.randrange(8)
                return [*parts[:k], bytes(part), *parts[k + 1 :]]
            case 1 if parts:
                return [*parts[:k], parts[k][: draw.randrange(len(parts[k]) + 1)], *parts[k + 1 :]]
            case 2:
                return parts[:k] + parts[k + 1 :]
            case 3:
                return [*parts, draw.choice(draw.choice(self._golden))]
            case 4:
                return parts[::-1]
            case 5:
                return self._changed(parts)
            case _:
                return parts

    def _changed(self, parts: list[bytes]) -> list[bytes]:
        """One field has a value of another place or size."""
        draw = self._random
        with contextlib.suppress(msgspec.DecodeError, ValueError, IndexError, RecursionError):
            header = msgspec.msgpack.decode(parts[0])
            if isinstance(header, dict) and header:
                header[draw.choice(list(header))] = draw.choice(ODD_VALUES)
                return [msgspec.msgpack.encode(header), *parts[1:]]
        return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fuzzer = Fuzzer(given.endpoint, given.seed)
    until = time.monotonic() + given.seconds
    while time.monotonic() < until:
        fuzzer.send_some()
        time.sleep(PAUSE_S)
    fuzzer.close()
    print(f"{fuzzer.sent} messages")


if __name__ == "__main__":
    main()
