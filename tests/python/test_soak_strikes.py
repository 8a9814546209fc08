# SPDX-License-Identifier: Apache-2.0
"""When the soak says that a track is served again: a host, a server and an engine's bytes are stand-ins, the proxy is real."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from tests.soak import strikes
from tests.soak.connection import Weather
from tests.soak.host_runs import HostRun
from tests.soak.plans import Fault
from tests.soak.ports import HOST, free_port_pair, listener
from tests.soak.proxy import Proxy
from tests.soak.strikes import AUDIO, CONTROL, Striker
from tests.soak.verdicts import ViolationError

HANDSHAKE, WINDOW = bytes(110), bytes(20_000)
SOON_S, TIMEOUT_S = 0.3, 10.0


class Engine:
    """Greets whoever connects, on both ports, and sends what it is told to the newest of each."""

    def __init__(self):
        self.first = free_port_pair()
        self._connections = [[], []]
        self._doors = [listener(self.first + number) for number in (CONTROL, AUDIO)]
        for number, door in enumerate(self._doors):
            door.listen()
            threading.Thread(target=self._keep, args=(number, door), daemon=True).start()

    def _keep(self, number, door):
        with contextlib.suppress(OSError):
            while True:
                connection = door.accept()[0]
                connection.sendall(HANDSHAKE)
                self._connections[number].append(connection)

    def count(self, number):
        """Connections so far."""
        return len(self._connections[number])

    def send(self, number, data, after=0):
        """By the newest connection, once there have been more than so many."""
        wait_until(lambda: self.count(number) > after)
        self._connections[number][-1].sendall(data)

    def close(self):
        for door in self._doors:
            door.shutdown(socket.SHUT_RDWR)
            door.close()
        for connection in itertools.chain(*self._connections):
            connection.close()


class Plugin:
    """Connected to both ports, and again whenever a connection ends; reads what comes."""

    def __init__(self, proxy):
        self.read = [0, 0]
        self._proxy, self._is_over = proxy, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in (CONTROL, AUDIO)]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        while not self._is_over.wait(0.01):
            try:
                with socket.create_connection((HOST, self._proxy.port + number), TIMEOUT_S) as one:
                    one.settimeout(0.05)
                    while not self._is_over.is_set():
                        try:
                            piece = one.recv(65_536)
                        except TimeoutError:
                            continue
                        self.read[number] += len(piece)
                        if not piece:
                            break
            except OSError:
                pass

    def close(self):
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def scene():
    """An engine, a proxy, a connected plugin, and a striker of a run whose audio has been coming."""
    engine = Engine()
    with Proxy((engine.first, engine.first + 1)) as proxy:
        plugin = Plugin(proxy)
        wait_until(lambda: min(plugin.read) >= len(HANDSHAKE))
        server = SimpleNamespace(lives=1, greetings=0, kill=lambda: None, start=lambda: None, signal=lambda _: None)
        server.greeted = lambda: server.greetings
        run = SimpleNamespace(is_alive=True, progress=0.5, stage=0, is_fed=True, is_loop=False, is_live=False)
        run.process, run.watch = SimpleNamespace(kill=lambda: None), SimpleNamespace(first=lambda after: after)
        striker = Striker(server, proxy, run)
        server.greetings = 1
        yield SimpleNamespace(engine=engine, proxy=proxy, plugin=plugin, server=server, run=run, striker=striker)
        plugin.close()
    engine.close()


def wait_until(condition):
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def flow(scene):
    """A window reaches the plugin."""
    before = scene.plugin.read[AUDIO]
    scene.engine.send(AUDIO, WINDOW)
    wait_until(lambda: scene.plugin.read[AUDIO] >= before + len(WINDOW) and scene.proxy.last_mark_at(AUDIO))


def later(action, after_s=SOON_S):
    thread = threading.Timer(after_s, action)
    thread.start()
    return thread


RESET, AUDIO_RESET = Fault("reset", 0.0, 0.0), Fault("reset", 0.0, 0.0, port=AUDIO)
STALL = Fault("stall", 0.0, 0.0, 0.1, weather=Weather(is_stalled=True))


@pytest.mark.parametrize("fault", [RESET, AUDIO_RESET, STALL], ids=["reset", "audio reset", "stall"])
def test_a_track_is_served_again_when_audio_comes_and_not_by_handshakes_and_heartbeats(scene, fault):
    flow(scene)
    greeted = scene.engine.count(AUDIO) - (fault is STALL)
    chat = later(lambda: scene.engine.send(CONTROL, WINDOW), SOON_S / 2)
    audio = later(lambda: scene.engine.send(AUDIO, WINDOW, after=greeted))
    done = scene.striker.strike(fault)
    assert SOON_S - fault.pause_s - 0.1 < done.reconnect_s < TIMEOUT_S
    chat.join()
    audio.join()


def test_what_comes_by_a_connection_that_is_about_to_end_is_no_service(scene):
    """Half closed upwards an engine may send for a while."""
    flow(scene)
    sending = later(lambda: scene.engine.send(AUDIO, WINDOW), 0.0)
    ending = later(lambda: setattr(scene.run, "is_alive", False))
    assert scene.striker.strike(Fault("half-close up", 0.0, 0.0, port=AUDIO)).reconnect_s is None
    sending.join()
    ending.join()


@pytest.mark.parametrize("change", [("is_alive", False), ("stage", 1)], ids=["the host ends", "the next pass begins"])
def test_a_host_that_needs_no_more_audio_is_neither_late_nor_in_time(scene, monkeypatch, change):
    monkeypatch.setattr(strikes, "GIVE_UP_S", 2 * SOON_S)
    flow(scene)
    changing = later(lambda: setattr(scene.run, *change))
    assert scene.striker.strike(AUDIO_RESET).reconnect_s is None
    changing.join()


def test_audio_that_never_comes_again_is_a_violation(scene, monkeypatch):
    monkeypatch.setattr(strikes, "GIVE_UP_S", SOON_S)
    flow(scene)
    with pytest.raises(ViolationError, match="no service"):
        scene.striker.strike(AUDIO_RESET)


@pytest.mark.parametrize("why", ["nothing came yet", "it came long ago", "the host captures", "nobody was greeted"])
def test_a_host_without_audio_has_none_to_miss(scene, monkeypatch, why):
    if why != "nothing came yet":
        flow(scene)
    if why == "it came long ago":
        monkeypatch.setattr(strikes, "FLOW_S", 0.0)
    scene.run.is_fed = why != "the host captures"
    scene.server.greetings = why != "nobody was greeted"
    assert scene.striker.strike(AUDIO_RESET).reconnect_s is None


def test_a_loop_is_served_again_when_its_heartbeats_are_answered(scene):
    scene.run.is_loop = True
    greeted = scene.engine.count(CONTROL)
    answering = later(lambda: scene.engine.send(CONTROL, bytes(400), after=greeted))
    assert SOON_S - 0.1 < scene.striker.strike(RESET).reconnect_s < TIMEOUT_S
    answering.join()
    assert scene.striker.strike(AUDIO_RESET).reconnect_s is None, "at rest nothing is due by the audio port"


def test_a_killed_server_serves_again_when_it_has_greeted_the_track(scene):
    def start():
        scene.server.lives, scene.server.greetings = 2, 0

    scene.server.start = start
    greeting = later(lambda: setattr(scene.server, "greetings", 1))
    assert SOON_S - 0.1 < scene.striker.strike(Fault("kill", 0.0, 0.0)).reconnect_s < TIMEOUT_S
    greeting.join()


@pytest.mark.parametrize("is_live", [True, False])
def test_audio_is_of_use_once_a_block_follows(scene, is_live):
    """What comes may not be what the host waits for."""
    flow(scene)
    scene.run.is_live = is_live
    scene.run.watch = SimpleNamespace(first=lambda after: after + 1.5)
    greeted = scene.engine.count(AUDIO)
    sending = later(lambda: scene.engine.send(AUDIO, WINDOW, after=greeted), 0.0)
    assert 1.5 < scene.striker.strike(AUDIO_RESET).reconnect_s < TIMEOUT_S
    sending.join()


@pytest.mark.parametrize(("is_live", "least"), [(True, 1.5), (False, 0.0)])
def test_after_a_kill_only_who_plays_needs_a_block(scene, is_live, least):
    scene.run.is_live = is_live
    scene.run.watch = SimpleNamespace(first=lambda after: after + 1.5)
    scene.server.start = lambda: setattr(scene.server, "greetings", 2)
    assert least <= scene.striker.strike(Fault("kill", 0.0, 0.0)).reconnect_s < least + 1.0


def test_a_bounce_whose_plugin_had_given_the_engine_up_is_served_when_it_is_greeted(scene):
    """Its block comes when all that was in flight has been made again."""
    flow(scene)
    scene.run.watch = SimpleNamespace(first=lambda after: after + 1.5)
    greeting = later(lambda: setattr(scene.server, "greetings", 2))
    assert SOON_S - 0.1 < scene.striker.strike(Fault("stop", 0.0, 0.0)).reconnect_s < 1.5
    greeting.join()


@pytest.mark.parametrize(
    ("passes", "played", "stage", "is_fed"),
    [
        (1, 0, 0, True),
        (1, 5, 0, True),
        (3, 5, 0, False),
        (3, 10, 1, False),
        (3, 11, 1, True),
        (3, 20, 2, False),
        (3, 29, 2, True),
    ],
)
def test_of_several_passes_the_first_captures_and_the_others_wait_for_their_first_block(
    tmp_path, passes, played, stage, is_fed
):
    run = HostRun(SimpleNamespace(poll=lambda: None), tmp_path, 30, {}, passes=passes)
    run.watch.close()
    run.watch._played = played
    assert (run.stage, run.is_fed) == (stage, is_fed)
