# SPDX-License-Identifier: Apache-2.0
"""A server without sockets, threads and time: messages are handed to it, its worker is stepped by hand, and the clock is told."""

from __future__ import annotations

import logging
from collections import deque
from types import SimpleNamespace

import msgspec
import numpy as np
import zmq

from engine_server.serve import server as server_module
from engine_server.serve import worker as worker_module
from engine_server.serve.limits import Limits
from engine_server.serve.sockets import AUDIO_QUEUE, CONTROL_QUEUE, Received
from engine_server.tracks.engine import StepResult
from engine_server.tracks.track import Track
from engine_server.tracks.windows import AudioWindow
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode

RATE, FRAME = 8000, 320
FLIGHT_STEPS = 2
CONFIG = m.make_config()
LANES = ["denoise"]


class Clock:
    """Stands for the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class InstantTrack(Track):
    """A track without a model: the audio of a frame is its number. Input, epochs and limits are the real ones."""

    def take(self, hop):
        run = self._epochs[hop.epoch]
        run.next_hop += 1
        run.timeline.forget_before(self.geometry.input_needed_from(run.next_hop))

    def complete(self, hop, latent=None):
        run, windows = self._epochs.get(hop.epoch), []
        while run and run.next_audio_hop <= hop.hop:
            span, first = self.geometry.audio_span(run.next_audio_hop), run.next_audio_frame
            numbers = np.repeat(np.arange(first, span.stop, dtype=np.float32), FRAME)
            windows.append(AudioWindow(self.id, hop.epoch, first, span.stop - first, np.stack([numbers, -numbers])))
            run.next_audio_frame, run.next_audio_hop = span.stop, run.next_audio_hop + 1
        self._close_finished()
        return windows


class InstantEngine:
    """What the worker asks of an engine: hops are in flight for some steps, and cost nothing."""

    depth, backend = 4, "stand-in"
    loras = SimpleNamespace(names=dict)

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.tracks = {}
        self.flying = deque()

    def rhythm(self, track_id):
        return 0.0, 0.0

    def remove(self, track_id):
        self.tracks.pop(track_id, None)
        self.flying = deque(flight for flight in self.flying if flight[1].track != track_id)

    def drop(self, track_id, epoch):
        if track_id in self.tracks:
            self.tracks[track_id].drop(epoch)
        self.flying = deque(f for f in self.flying if (f[1].track, f[1].epoch) != (track_id, epoch))

    def has_work(self):
        return bool(self.flying) or any(track.waiting() for track in self.tracks.values())

    def progress(self):
        return []

    def step(self):
        result = StepResult()
        for track in self.tracks.values():
            for hop in track.waiting():
                track.take(hop)
                self.flying.append([FLIGHT_STEPS, hop])
        for flight in self.flying:
            flight[0] -= 1
        while self.flying and self.flying[0][0] <= 0:
            hop = self.flying.popleft()[1]
            result.windows += self.tracks[hop.track].complete(hop)
        return result


class FakeSocket:
    """A ROUTER's sending half: a bounded queue for each peer that is connected."""

    def __init__(self, most):
        self._most = most
        self.queues = {}
        self._name, self._parts = None, []

    def send(self, part, flags):
        """As ZeroMQ: the first part names the peer, and fails where the message cannot go; no later one fails."""
        if self._name is None:
            if part not in self.queues:
                raise zmq.ZMQError(zmq.EHOSTUNREACH)
            if len(self.queues[part]) >= self._most:
                raise zmq.ZMQError(zmq.EAGAIN)
            self._name = part
            return
        self._parts.append(part)
        if not flags & zmq.SNDMORE:
            self.queues[self._name].append(self._parts)
            self._name, self._parts = None, []


class FakeSockets:
    gate = None

    def __init__(self, endpoint, keys):
        self.endpoint = endpoint
        self.control, self.audio = FakeSocket(CONTROL_QUEUE), FakeSocket(AUDIO_QUEUE)

    def claim(self, socket, received):
        """Whose a connection is matters to none that is played here."""

    def wake(self):
        pass


class Rig:
    """Patches two modules of the server while it lives: their clock, sockets and tracks."""

    def __init__(self, checkpoint):
        self.clock = Clock()
        self._before = [(server_module, "time", server_module.time), (worker_module, "time", worker_module.time),
                        (server_module, "ServerSockets", server_module.ServerSockets),
                        (worker_module, "Track", worker_module.Track)]  # fmt: skip
        server_module.time = worker_module.time = self.clock
        server_module.ServerSockets, worker_module.Track = FakeSockets, InstantTrack
        self._level = server_module.log.level
        server_module.log.setLevel(logging.CRITICAL)  # thousands of refusals
        self.engine = InstantEngine(checkpoint)
        # Of the clock of the limits on traffic a test has no use: it says more in a moment than any client.
        self.server = server_module.Server(
            self.engine, "tcp://127.0.0.1:1", limits=Limits(messages_per_s=1e12, messages_burst=1e12)
        )
        self.worker, self.sockets = self.server._worker, self.server._sockets

    def close(self):
        for module, name, value in self._before:
            setattr(module, name, value)
        server_module.log.setLevel(self._level)

    def hand(self, socket, name, parts):
        """A message arrives, and the socket's thread looks after everything once."""
        self.server._receive(socket, Received(name, [zmq.Frame(part) for part in parts], ""))
        self.look()

    def client_of(self, peer):
        """What the server knows of a peer, None if nothing."""
        return self.server._clients.find(peer.name, is_audio=False)

    def look(self):
        """What the socket's thread does at every turn besides receiving."""
        self.server._take_events()
        while self.server._send_windows():
            pass
        self.server._forget_silent()

    def work(self):
        """A turn of the worker's thread. Whether there was anything to do."""
        has_messages = bool(self.worker.inbox._queues)
        if not (has_messages or self.engine.has_work()):
            return False
        self.worker._take_messages()
        if self.engine.has_work():
            self.worker._step()
        self.look()
        return True

    def settle(self):
        """Let the worker do all that there is."""
        for _ in range(2000):
            if not self.work():
                return
        raise AssertionError("the worker is never done")


class Peer:
    """A client's two sockets, and what it has been told."""

    def __init__(self, rig, letter):
        self.rig = rig
        self.name = b"c" + bytes([ord(letter)]) * 16
        self.audio_name = b"a" + bytes([ord(letter)]) * 16
        """Of a ticket that nobody gave; then of the newest one."""
        rig.sockets.control.queues[self.name] = deque()

    def send(self, header, audio=None, lanes=None, edits=None, *, arrives=True, name=None):
        parts = encode(Packet(header, audio, lanes, edits))
        if not arrives:
            return
        if isinstance(header, m.ORDERED):
            self.rig.hand(self.rig.sockets.audio, name or self.audio_name, parts)
        else:
            self.rig.hand(self.rig.sockets.control, self.name, parts)

    def feed(self, epoch, frame, count, **how):
        audio = np.zeros((2, count * FRAME), np.float32)
        self.send(m.Feed(epoch, frame, count), audio, np.full((count, 1), 0.5, np.float32), **how)

    def hello(self, *, credit=250, arrives=True, **changed):
        header = m.Hello(3, "peer", RATE, "stream", 150, credit, "none", LANES, CONFIG)
        self.send(msgspec.structs.replace(header, **changed), arrives=arrives)

    def read(self):
        """Everything that waits for it, in the order of each socket: control first."""
        control, audio = self.rig.sockets.control.queues, self.rig.sockets.audio.queues
        packets = []
        while control[self.name]:
            packets.append(decode(control[self.name].popleft(), rate=RATE, lane_count=1))
            header = packets[-1].header
            if isinstance(header, m.Welcome):
                audio.pop(self.audio_name, None)
                self.audio_name = b"a" + bytes.fromhex(header.ticket)
                audio[self.audio_name] = deque()
                self.rig.look()
        while audio.get(self.audio_name):
            packets.append(decode(audio[self.audio_name].popleft(), rate=RATE, lane_count=1))
            self.rig.look()
        return packets
