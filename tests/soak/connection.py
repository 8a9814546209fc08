# SPDX-License-Identifier: Apache-2.0
"""One connection through the proxy: two pumps, and what the weather does to their bytes. For the proxy's loop only."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

PIECE_BYTES = 65_536
PIECES_HELD = 64
"""On the way in one direction; more stays with the sender, as behind a full buffer of a router."""
THROTTLE_STEP_S = 0.05
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send an RST."""


class Direction(Enum):
    """Which way bytes flow."""

    UP = "up"
    """To the engine."""
    DOWN = "down"
    """From the engine."""


@dataclass(frozen=True)
class Weather:
    """What happens to bytes on their way, in both directions. The default is nothing."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Each piece takes up to so much longer; pieces keep their order."""
    bytes_per_s: float = 0.0
    """0 is as fast as it goes."""
    is_stalled: bool = False
    """Connections are accepted and stay; bytes are held."""


class Connection:
    """A client's socket and the engine's. `passed` hears of every piece that was passed on."""

    def __init__(
        self,
        client: socket.socket,
        engine: socket.socket,
        weather: Weather,
        rng: random.Random,
        passed: Callable[[Direction, int], None],
    ) -> None:
        self._client, self._engine = client, engine
        self._random = rng
        self._passed = passed
        self._moving = asyncio.Event()
        self._is_lost = dict.fromkeys(Direction, False)
        self._pumps: list[asyncio.Task[None]] = []
        self.set_weather(weather)

    async def run(self) -> None:
        """Pass bytes on until both directions have ended, or one has failed, or `abort`; then close both sockets."""
        ways = {Direction.UP: (self._client, self._engine), Direction.DOWN: (self._engine, self._client)}
        for direction, (source, sink) in ways.items():
            pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_HELD)
            self._pumps.append(asyncio.create_task(self._take(source, pieces)))
            self._pumps.append(asyncio.create_task(self._give(sink, pieces, direction)))
        try:
            await asyncio.gather(*self._pumps)
        except (OSError, asyncio.CancelledError):
            pass  # a broken connection is a normal state here
        finally:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            self._client.close()
            self._engine.close()

    def set_weather(self, weather: Weather) -> None:
        """From the next piece on."""
        self._weather = weather
        if weather.is_stalled:
            self._moving.clear()
        else:
            self._moving.set()

    def abort(self) -> None:
        """An RST to both ends."""
        for end in (self._client, self._engine):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.close()

    def close(self) -> None:
        """End both directions at once."""
        for pump in self._pumps:
            pump.cancel()

    def shut_down(self, direction: Direction) -> None:
        """The receiver sees the end of the stream; what the sender still sends is lost."""
        if self._is_lost[direction]:
            return
        self._is_lost[direction] = True
        sink = self._engine if direction is Direction.UP else self._client
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def _take(self, source: socket.socket, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        """From the sender, each piece with the time at which it is due; an empty one at the end."""
        loop, due = asyncio.get_running_loop(), 0.0
        while True:
            piece = await loop.sock_recv(source, PIECE_BYTES)
            wait = self._weather.delay_s + self._random.uniform(0.0, self._weather.jitter_s)
            due = max(due, time.monotonic() + wait)
            await pieces.put((due, piece))
            if not piece:
                return

    async def _give(
        self, sink: socket.socket, pieces: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._moving.wait()
            if not piece:
                self.shut_down(direction)
                return
            while piece and not self._is_lost[direction]:
                piece = await self._send_some(sink, piece, direction)

    async def _send_some(self, sink: socket.socket, piece: bytes, direction: Direction) -> bytes:
        """What is left of the piece."""
        await self._moving.wait()
        rate = self._weather.bytes_per_s
        size = max(1, int(rate * THROTTLE_STEP_S)) if rate else len(piece)
        await asyncio.get_running_loop().sock_sendall(sink, piece[:size])
        self._passed(direction, min(size, len(piece)))
        if rate:
            await asyncio.sleep(size / rate)
        return piece[size:]
