# SPDX-License-Identifier: Apache-2.0
"""The server's side of a connection under everything that a client can say in any order, with lost messages and silence.

The suite runs the same steps every time; `DEMON_CONNECTION_EXAMPLES=2000` makes it a soak of other ones.
"""

from __future__ import annotations

import os

import pytest
from connection_rig import FRAME, Peer, Rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from engine_server.serve.clients import FORGET_AFTER_S
from engine_server.serve.server import MAX_WAITING, MAX_WAITING_FRAMES
from engine_server.tracks.track import MAX_FRAMES_HELD
from shared_protocol import messages as m

QUICK, STEPS = 40, 40
EXAMPLES = int(os.environ.get("DEMON_CONNECTION_EXAMPLES", QUICK))
HONEST_FRAMES, HONEST_CREDIT = 60, 45
LARGEST_WINDOW = 20
ROUNDS = 60
FLOOD = MAX_WAITING + 50
LOST = st.sampled_from([True] * 5 + [False])


class Honest:
    """A client that keeps to the rules and bounces one epoch after another. It must never notice the other one."""

    def __init__(self, rig):
        self.peer, self.epoch, self.bounced = Peer(rig, "h"), 0, 0
        self.received = self.number = 0
        self.peer.hello(credit=HONEST_CREDIT)
        rig.settle()
        (welcome,) = self.peer.read()
        self.credit = welcome.header.credit
        self._begin()

    def _begin(self):
        self.epoch += 1
        self.fed = self.taken = self.wanted = 0
        self.peer.send(m.Begin(self.epoch, "stream", 0, 0, 0, True))

    def live(self):
        """One turn: read, feed within the credit, acknowledge."""
        unread = len(self.peer.rig.sockets.audio.queues[self.peer.audio_name])
        assert unread * LARGEST_WINDOW <= HONEST_CREDIT + LARGEST_WINDOW
        arrived = 0
        for header, audio, *_ in self.peer.read():
            assert isinstance(header, m.Pong | m.Window), header
            if isinstance(header, m.Pong):
                place = dict(zip(header.epochs, header.expected, strict=True)).get(self.epoch, self.taken)
                assert place >= self.taken
                self.taken = place
                continue
            arrived += header.count
            assert arrived <= max(HONEST_CREDIT, LARGEST_WINDOW), "more than the credit was under way"
            assert (header.epoch, header.frame) == (self.epoch, self.wanted), "out of order, or a gap, or a repeat"
            assert audio[0, 0] == self.wanted
            self.wanted += header.count
        self.received += arrived
        if self.wanted >= HONEST_FRAMES:
            self.bounced += 1
            self.peer.send(m.Drop(self.epoch))
            self._begin()
        while self.fed < min(self.taken + self.credit, self.wanted + 150):
            self.peer.feed(self.epoch, self.fed, 25)
            self.fed += 25
        self.number += 1
        self.peer.send(m.Ping(self.number, self.epoch, self.wanted, self.received))


class Connection(RuleBasedStateMachine):
    checkpoint = None

    @initialize()
    def start(self):
        self.rig = Rig(self.checkpoint)
        self.honest = Honest(self.rig)
        self.peer = Peer(self.rig, "r")
        self.tickets = []
        self.epoch = 0
        self.fed = {}
        self.received = 0
        self.is_deaf = False
        self.books = {}
        """What was seen of each ticket: a `_Seen`."""

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        try:
            self._the_honest_one_goes_on()
            self._nothing_is_left()
        finally:
            self.rig.close()

    # What the other one may do

    @rule(credit=st.sampled_from([1, 30, 250]), arrives=LOST)
    def says_hello(self, credit, arrives):
        self.peer.hello(credit=credit, arrives=arrives)
        if arrives:
            self.epoch, self.fed, self.received = 0, {}, 0

    @rule(wrong=st.sampled_from([{"protocol": 2}, {"rate": 8001}, {"latency": 1}, {"mode": "loop"}]))
    def says_hello_wrongly(self, wrong):
        self.peer.hello(**wrong)

    @rule(step=st.integers(-1, 2), kind=st.sampled_from(["stream"] * 5 + ["loop"]), start=st.integers(-3, 3),
          deliver=st.integers(-1, 90), early=st.integers(-2, 200), offline=st.booleans(), arrives=LOST)  # fmt: skip
    def begins(self, step, kind, start, deliver, early, offline, arrives):
        epoch = max(1, self.epoch + step)
        deliver += start
        feed_from = max(start, deliver - early)
        self.peer.send(m.Begin(epoch, kind, start * FRAME, feed_from, deliver, offline), arrives=arrives)
        self.epoch = max(epoch, self.epoch)
        self.fed.setdefault(epoch, feed_from)
        if arrives:
            self._seen().begun.setdefault(epoch, set()).add(deliver)

    @rule(offset=st.sampled_from([0] * 5 + [-30, 7]), count=st.integers(1, 64), times=st.integers(1, 4), arrives=LOST)
    def feeds(self, offset, count, times, arrives):
        epoch = max(1, self.epoch)
        for _ in range(times):
            frame = self.fed.get(epoch, 0) + offset
            self.peer.feed(epoch, frame, count, arrives=arrives)
            if offset <= 0:
                self.fed[epoch] = max(self.fed.get(epoch, 0), frame + count)

    @rule(offset=st.sampled_from([0, 0, -5, 5]), arrives=LOST)
    def ends(self, offset, arrives):
        epoch = max(1, self.epoch)
        self.peer.send(m.End(epoch, self.fed.get(epoch, 0) + offset), arrives=arrives)

    @rule(step=st.integers(-2, 2), arrives=LOST)
    def drops(self, step, arrives):
        self.peer.send(m.Drop(max(0, self.epoch + step)), arrives=arrives)

    @rule(
        epoch=st.integers(-1, 1), wanted=st.integers(-50, 400), wrong=st.sampled_from([0, 0, 0, -20, 500]), arrives=LOST
    )
    def pings(self, epoch, wanted, wrong, arrives):
        epoch = max(0, self.epoch + epoch)
        header = m.Ping(1, epoch, wanted, max(0, self.received + wrong))
        if arrives and self.rig.client_of(self.peer):
            self._seen().acknowledge(epoch, wanted)
        self.peer.send(header, arrives=arrives)

    @rule(epoch=st.integers(-1, 0))
    def acknowledges_what_it_has(self, epoch):
        epoch = max(0, self.epoch + epoch)
        wanted = self._seen().ends.get(epoch, 0)
        if self.rig.client_of(self.peer):
            self._seen().acknowledge(epoch, wanted)
        self.peer.send(m.Ping(2, epoch, wanted, self.received))

    @rule()
    def leaves(self):
        self.peer.send(m.Bye())

    @rule(which=st.integers(0, 5))
    def feeds_with_an_old_ticket(self, which):
        name = self.tickets[which % len(self.tickets)] if self.tickets else b"a" + bytes(16)
        if name != self.peer.audio_name:
            self.peer.feed(max(1, self.epoch), 0, 5, name=name)

    @rule(parts=st.lists(st.binary(max_size=40), max_size=3), is_audio=st.booleans(), is_known=st.booleans())
    def sends_garbage(self, parts, is_audio, is_known):
        socket = self.rig.sockets.audio if is_audio else self.rig.sockets.control
        known = self.peer.audio_name if is_audio else self.peer.name
        self.rig.hand(socket, known if is_known else b"stranger", parts)

    @rule(header=st.sampled_from([m.Configure(1, m.make_config("x")), m.Pong(1, [], [], 0.0, 0.0), m.Closing(""),
                                  m.Configure(2, m.make_config(timbre="ab" * 32))]))  # fmt: skip
    def says_something_else(self, header):
        self.peer.send(header)

    @rule(what=st.sampled_from(["ping", "drop", "feed", "hello", "come and go", "configure"]))
    def floods(self, what):
        for k in range(FLOOD):
            match what:
                case "ping":
                    self.peer.send(m.Ping(3, 0, 0, self.received))
                    self._seen().acknowledge(0, 0)
                case "drop":
                    self.peer.send(m.Drop(500 + k))
                case "feed":
                    if k < 12:
                        self.peer.feed(max(1, self.epoch), self.fed.get(self.epoch, 0), 64)
                case "hello":
                    self.peer.hello()
                case "come and go":
                    self.peer.hello()
                    self.peer.send(m.Bye())
                case "configure":
                    self.peer.send(m.Configure(k, m.make_config()))

    @rule(is_deaf=st.booleans())
    def reads(self, is_deaf):
        self.is_deaf = is_deaf

    @rule(turns=st.integers(1, 8))
    def the_worker_works(self, turns):
        for _ in range(turns):
            self.rig.work()
        self._read()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5]))
    def time_passes(self, seconds):
        self.rig.clock.now += seconds
        self.honest.live()
        self.rig.look()

    @rule()
    def is_silent(self):
        for _ in range(int(FORGET_AFTER_S) + 1):
            self.rig.clock.now += 1.0
            self.rig.settle()
            self.honest.live()
        assert self.rig.client_of(self.peer) is None
        self.rig.settle()
        assert list(self.rig.engine.tracks) == [self.rig.client_of(self.honest.peer).track_id]

    @rule()
    def all_is_done(self):
        self.rig.settle()
        self._read()
        self._tracks_have_clients()

    # What must hold

    def _seen(self):
        return self.books.setdefault(self.peer.audio_name, _Seen())

    def _read(self):
        """Take what has come for the other one, and check it."""
        if self.is_deaf:
            return
        for header, audio, *_ in self.peer.read():
            if isinstance(header, m.Error):
                assert header.code != "E_ENGINE", header
            elif isinstance(header, m.Welcome):
                self.tickets.append(self.peer.audio_name)
                self.epoch, self.fed, self.received = 0, {}, 0
            elif isinstance(header, m.Window):
                self.received += header.count
                assert audio[0, 0] == header.frame
                self._seen().window(header)

    @invariant()
    def memory_is_bounded(self):
        if not hasattr(self, "rig"):
            return
        server, inbox = self.rig.server, self.rig.worker.inbox
        assert len(server._clients) == len(server._clients._by_audio_id) <= 2
        for name in (self.peer.name, self.honest.peer.name):
            waiting = inbox.waiting(name)
            assert waiting.messages <= MAX_WAITING + 2
            assert waiting.size <= server._limits.held_bytes
            queue = inbox._queues.get(name)
            most = max((fed.frames for fed in queue.fed.values()), default=0) if queue else 0
            assert most < MAX_WAITING_FRAMES + m.MAX_FEED_FRAMES
        for client in server._clients:
            assert client.frames_in_flight <= max(client.hello.credit, LARGEST_WINDOW)
            assert client.frames_held <= 2 * MAX_FRAMES_HELD
        for track in self.rig.engine.tracks.values():
            assert len(track.book._expected) <= m.MAX_OPEN_EPOCHS
            assert len(track.book._dropped) <= m.MAX_OPEN_EPOCHS
            assert len(track.book._done) <= m.MAX_OPEN_EPOCHS
            assert sum(run.timeline.held for run in track._epochs.values()) <= MAX_FRAMES_HELD

    def _tracks_have_clients(self):
        """The engine makes nothing for whoever has left."""
        known = {client.track_id for client in self.rig.server._clients}
        assert set(self.rig.engine.tracks) == known
        assert set(self.rig.worker.positions) == known
        assert not self.rig.worker.inbox._queues

    def _the_honest_one_goes_on(self):
        bounced = self.honest.bounced
        for _ in range(ROUNDS):
            self.rig.clock.now += 0.1
            self.rig.settle()
            self.honest.live()
        assert self.honest.bounced > bounced

    def _nothing_is_left(self):
        self.peer.send(m.Bye())
        self.honest.peer.send(m.Bye())
        self.rig.settle()
        self._tracks_have_clients()
        assert not self.rig.engine.tracks
        assert not self.rig.engine.flying
        assert not self.rig.worker._progress_at


class _Seen:
    """The windows of one ticket, as the wire has them."""

    def __init__(self):
        self.begun = {}
        """Epochs and where their delivery may begin."""
        self.ends = {}
        self.given_up = (0, 0)
        """Epoch and frame up to which nothing is wanted."""
        self.is_all_given_up = False
        self.starts = set()

    def acknowledge(self, epoch, wanted):
        if epoch == 0:
            self.is_all_given_up = True
        self.given_up = max(self.given_up, (epoch, wanted))

    def window(self, header):
        end = self.ends.get(header.epoch)
        is_new = end is None or header.frame >= end
        if is_new:
            is_next = header.frame == end or (end is None and header.frame in self.begun.get(header.epoch, ()))
            may_skip = self.is_all_given_up or (header.epoch, header.frame) <= self.given_up
            assert is_next or may_skip, f"{header} came after {end}"
            self.ends[header.epoch] = header.frame + header.count
        else:
            assert (header.epoch, header.frame) in self.starts, f"{header} overlaps what came before"
        self.starts.add((header.epoch, header.frame))


def test_whatever_a_client_says_the_server_keeps_its_promises(tiny):
    Connection.checkpoint = tiny
    run_state_machine_as_test(
        Connection,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=EXAMPLES == QUICK,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("turns", [1, 3])
def test_the_honest_client_of_the_machine_bounces(tiny, turns):
    rig = Rig(tiny)
    try:
        honest = Honest(rig)
        for _ in range(ROUNDS):
            for _ in range(turns):
                rig.work()
            honest.live()
        assert honest.bounced >= 2
    finally:
        rig.close()
