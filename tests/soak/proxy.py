# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy with bad weather: it stands between plugins and engine and delays, throttles, stalls, cuts and refuses.

It listens on adjacent ports and forwards each to its own target, because the engine listens on adjacent ports. Every
fault can be had on all of them or on one alone.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from tests.soak.connection import Connection, Direction, Weather
from tests.soak.ports import HOST, free_port_pair, listener

ALL = None
"""For `port`: every port of the proxy."""
CALL_TIMEOUT_S = 10.0
BACKLOG = 128
MARK_BYTES = (256, 4096)
"""By port, what is more than a connection's start: a handshake has 110 bytes, a heartbeat 10. A pong of an engine has 90, a
window of a single frame 15 KiB."""


@dataclass
class Stream:
    """What a connection has brought to a client that was there. Times are those of `time.monotonic`."""

    mark: int
    """Bytes."""
    opened_at: float
    mark_at: float = 0.0
    """When as much was last full."""
    _waiting: int = 0

    def add(self, size: int) -> None:
        """So many bytes were passed on."""
        self._waiting += size
        if self._waiting >= self.mark:
            self._waiting, self.mark_at = 0, time.monotonic()


class Proxy:
    """Listens from construction to `close`. Methods may be called from any thread, and have acted when they return.

    targets: ports of this machine to forward to, one for each port that is listened on. seed: of the jitter.
    """

    def __init__(self, targets: Sequence[int], *, seed: int = 0) -> None:
        self._targets = tuple(targets)
        self.port = free_port_pair(len(self._targets))
        self.counts = {"accepted": 0, "failed": 0, "reset": 0, "up": 0, "down": 0}
        """Connections accepted, without a target, and reset; bytes passed on to the engine and from it."""
        self._streams: list[list[Stream]] = [[] for _ in self._targets]
        self._random = random.Random(seed)
        self._weather = [Weather() for _ in self._targets]
        self._doors = [listener(self.port + number) for number in range(len(self._targets))]
        self._door_keepers: dict[int, asyncio.Task[None]] = {}
        self._connections: dict[asyncio.Task[None], tuple[Connection | None, int]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def endpoint(self) -> str:
        """Where clients connect: the first of its ports."""
        return f"tcp://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def last_mark_at(self, port: int, opened_after: float = 0.0) -> float:
        """When as much as MARK_BYTES has last reached a client, by a port's connections opened after a time; 0 if never.

        Times are those of `time.monotonic`.
        """
        streams = list(self._streams[port])
        return max((stream.mark_at for stream in streams if stream.opened_at > opened_after), default=0.0)

    def set_weather(self, weather: Weather, port: int | None = ALL) -> None:
        """Of the connections that there are and of those that come. `port` is the number of a port, from 0, or ALL."""
        self._call(self._set_weather(weather, port))

    def stall(self, port: int | None = ALL) -> None:
        """Hold all bytes until the weather is set again."""
        self.set_weather(Weather(is_stalled=True), port)

    def reset(self, port: int | None = ALL) -> None:
        """End every connection with an RST to both of its ends."""
        self._call(self._reset(port))

    def half_close(self, direction: Direction, port: int | None = ALL) -> None:
        """End one direction of every connection as if its sender had shut it down; what it sends after that is lost."""
        self._call(self._each(port, lambda connection: connection.shut_down(direction)))

    def refuse(self, port: int | None = ALL) -> None:
        """Refuse new connections. Those that there are stay."""
        self._call(self._refuse(port))

    def accept(self, port: int | None = ALL) -> None:
        """Take new connections again."""
        self._call(self._accept(port))

    def cut(self, port: int | None = ALL) -> None:
        """Refuse new connections and reset those that there are."""
        self.refuse(port)
        self.reset(port)

    def clear(self) -> None:
        """Fair weather, and new connections are welcome."""
        self.set_weather(Weather())
        self.accept()

    def close(self) -> None:
        """End everything: no socket and no thread is left."""
        if self._thread.is_alive():
            self._call(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_TIMEOUT_S)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # All that follows happens on the proxy's own thread.

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    def _numbers(self, port: int | None) -> Sequence[int]:
        return range(len(self._targets)) if port is ALL else (port,)

    async def _each(self, port: int | None, action: Callable[[Connection], None]) -> None:
        for connection, number in list(self._connections.values()):
            if connection and number in self._numbers(port):
                action(connection)

    async def _set_weather(self, weather: Weather, port: int | None) -> None:
        for number in self._numbers(port):
            self._weather[number] = weather
        await self._each(port, lambda connection: connection.set_weather(weather))

    async def _reset(self, port: int | None) -> None:
        concerned = [
            (task, connection)
            for task, (connection, number) in self._connections.items()
            if connection and number in self._numbers(port)
        ]
        for _, connection in concerned:
            connection.abort()
            self.counts["reset"] += 1
        await asyncio.gather(*(task for task, _ in concerned))

    async def _accept(self, port: int | None) -> None:
        for number in self._numbers(port):
            if number not in self._door_keepers:
                self._doors[number].listen(BACKLOG)
                self._doors[number].setblocking(False)
                self._door_keepers[number] = self._loop.create_task(self._keep_door(number))

    async def _refuse(self, port: int | None) -> None:
        """A socket cannot stop to listen, so that it is closed; a bound one in its place keeps the port."""
        for number in self._numbers(port):
            if keeper := self._door_keepers.pop(number, None):
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
                self._doors[number].close()
                self._doors[number] = listener(self.port + number)

    async def _keep_door(self, number: int) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._doors[number])
            self.counts["accepted"] += 1
            task = self._loop.create_task(self._serve(client, number))
            self._connections[task] = None, number
            task.add_done_callback(self._connections.pop)

    async def _serve(self, client: socket.socket, number: int) -> None:
        engine = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for end in (client, engine):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(engine, (HOST, self._targets[number]))
        except (OSError, asyncio.CancelledError):
            self.counts["failed"] += 1
            client.close()
            engine.close()
            return
        self._streams[number].append(stream := Stream(MARK_BYTES[number], time.monotonic()))

        def count(direction: Direction, size: int) -> None:
            self.counts[direction.value] += size
            if direction is Direction.DOWN and not _has_ended(client):
                stream.add(size)

        connection = Connection(client, engine, self._weather[number], self._random, count)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection, number
        await connection.run()

    async def _finish(self) -> None:
        await self._refuse(ALL)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for door in self._doors:
            door.close()


def _has_ended(peer: socket.socket) -> bool:
    """Whether nobody is there any more: what is passed on all the same is lost. Takes nothing from the socket."""
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
