# SPDX-License-Identifier: Apache-2.0
"""A real server process on a real socket: delivery, restarts, bad input, and neighbours that must not notice."""

from __future__ import annotations

import contextlib
import threading
import time

import msgspec
import numpy as np
import pytest
import zmq
from wire import ServerProcess, WireClient

from engine_server.serve.client import HEARD_AGAIN_S, RESEND_AFTER_S, RESENT_AGAIN_S, Client
from engine_server.serve.endpoint import audio_endpoint
from engine_server.serve.keys import KeyStore
from engine_server.serve.server import Server
from engine_server.serve.worker import Event
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from engine_server.tracks.track import AudioWindow
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.errors import DemonError

FRAMES, FRAME = 160, 1920


@pytest.fixture(scope="module")
def server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


@pytest.fixture
def client(server):
    with WireClient(server.endpoint) as one:
        yield one


@pytest.fixture(scope="module")
def source():
    t = np.arange(FRAMES * FRAME) / 48_000
    return np.stack([0.3 * np.sin(2 * np.pi * 110 * t), 0.2 * np.sin(2 * np.pi * 330 * t)]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(tiny, source):
    """The same bounce without socket or process."""
    config = m.make_config(prompt="strings", seed=7, steps=0, solver="ode")
    return render(Engine(tiny), source, 48_000, build_table({"denoise": 0.6}, FRAMES), config)


def test_a_bounce_over_the_socket_equals_a_render(client, source, expected, tiny):
    welcome = client.hello().header
    assert welcome.checkpoint_hash == tiny.content_hash
    assert "denoise" in welcome.lanes
    assert np.array_equal(client.bounce(source, frames=FRAMES), expected)


def test_progress_comes_while_a_track_waits(client, source):
    client.hello()
    client.bounce(source, frames=FRAMES)
    progress = [p.header for p in client.received if isinstance(p.header, m.Progress)]
    assert progress
    assert all(p.steps == 4 and 0 <= p.step <= 4 for p in progress)


def test_several_tracks_at_once_get_their_own_bits(server, source, expected):
    results = [None] * 3

    def bounce(k):
        with WireClient(server.endpoint) as one:
            one.hello()
            results[k] = one.bounce(source, frames=FRAMES)

    threads = [threading.Thread(target=bounce, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


def test_a_server_killed_in_mid_bounce_goes_on_with_the_same_bits(tiny_folder, source, expected):
    with ServerProcess(str(tiny_folder)) as process, WireClient(process.endpoint) as client:
        retain = client.hello().header.retain
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        padded = np.pad(source, ((0, 0), (0, 200 * FRAME)))
        for frame in range(0, 160, 32):
            client.feed(1, frame, padded[:, frame * FRAME : (frame + 32) * FRAME])
        parts, position = [], 0
        while position <= retain:
            window = client.wait_for(m.Window)
            parts.append(window.audio)
            position += window.header.count
        process.kill()
        process.start()
        client.ping(1, position)
        client.wait_for(m.Error, code="E_UNKNOWN_TRACK")
        client.hello()
        feed_from = position - retain
        assert feed_from > 0
        client.send(m.Begin(1, "stream", 0, feed_from, position, True))
        for frame in range(feed_from, FRAMES + 160, 32):
            client.feed(1, frame, padded[:, frame * FRAME : (frame + 32) * FRAME])
        while sum(p.shape[1] for p in parts) < FRAMES * FRAME:
            parts.append(client.wait_for(m.Window).audio)
    assert np.array_equal(np.concatenate(parts, axis=1)[:, : FRAMES * FRAME], expected)


def test_windows_are_sent_again_until_they_are_acknowledged(client, source):
    client.hello()
    client.send(m.Begin(1, "stream", 0, 0, 0, True))
    client.feed(1, 0, source[:, : 64 * FRAME])
    first = client.wait_for(m.Window, frame=0)
    again = None
    deadline = time.monotonic() + 30
    while again is None and time.monotonic() < deadline:
        client.ping(1, 0)
        with contextlib.suppress(TimeoutError):
            again = client.wait_for(m.Window, timeout_s=0.5, frame=0)
    assert again is not None
    assert np.array_equal(again.audio, first.audio)
    for _ in range(int(2 * RESEND_AFTER_S / 0.5)):
        client.ping(1, first.header.count)
        with pytest.raises(TimeoutError):
            client.wait_for(m.Window, timeout_s=0.5, frame=0)


def test_pong_tells_where_the_feed_stands(client, source):
    client.hello()
    client.send(m.Ping(0, 0, 0, 0))
    assert client.wait_for(m.Pong).header == m.Pong(0, [], [], 0.0, 0.0)
    client.send(m.Begin(5, "stream", 0, 0, 0, False))
    client.feed(5, 0, source[:, : 10 * FRAME])
    deadline = time.monotonic() + 10
    while (pong := client_pong(client)) and (pong.epochs, pong.expected) != ([5], [10]):
        assert time.monotonic() < deadline


def client_pong(client):
    client.ping(5, 0, number=7)
    return client.wait_for(m.Pong, number=7).header


def bad_messages():
    silence, lanes = np.zeros((2, FRAME), dtype=np.float32), np.zeros((1, 1), dtype=np.float32)
    not_a_number = np.full((2, FRAME), np.nan, dtype=np.float32)
    feed = encode(Packet(m.Feed(1, 0, 1), silence, lanes))
    yield "truncated header", [feed[0][:-1], *feed[1:]], "E_MALFORMED"
    yield "truncated payload", [feed[0], feed[1][:-4], feed[2]], "E_PAYLOAD_SIZE"
    yield "missing payload", feed[:2], "E_MALFORMED"
    yield "garbage", [b"\xc1garbage"], "E_MALFORMED"
    yield "no part at all", [b""], "E_MALFORMED"
    yield "unknown type", [msgspec.msgpack.encode({"type": "shout"})], "E_UNKNOWN_MESSAGE"
    yield "a server's message", encode(Packet(m.Pong(0, [], [], 0.0, 0.0))), "E_UNKNOWN_MESSAGE"
    yield "NaN audio", encode(Packet(m.Feed(1, 0, 1), not_a_number, lanes)), "E_NOT_FINITE"
    yield "lane out of range", encode(Packet(m.Feed(1, 0, 1), silence, lanes + 1.5)), "E_LANE_RANGE"
    yield "epoch never begun", encode(Packet(m.Feed(9, 0, 1), silence, lanes)), "E_EPOCH"
    yield "gap", encode(Packet(m.Feed(1, 50, 1), silence, lanes)), "E_FEED_GAP"
    yield "epoch again", encode(Packet(m.Begin(1, "stream", 0, 0, 0, True))), "E_EPOCH"
    yield "too late to resume", encode(Packet(m.Begin(2, "stream", 0, 100, 101, True))), "E_FIELD"
    yield (
        "count out of range",
        [msgspec.msgpack.encode({"type": "feed", "epoch": 1, "frame": 0, "count": 0}), *feed[1:]],
        "E_FIELD",
    )


@pytest.mark.parametrize(
    ("parts", "code"), [case[1:] for case in bad_messages()], ids=[case[0] for case in bad_messages()]
)
def test_bad_messages_get_their_name_and_cost_nobody_else(client, server, parts, code):
    client.hello()
    client.send(m.Begin(1, "stream", 0, 0, 0, True))
    client.send_raw(parts, by_audio=True)
    assert client.wait_for(m.Error).header.code == code
    client.send(m.Configure(3, m.make_config("still here", 1, 0, "ode")))
    client.wait_for(m.Configured, revision=3)
    with WireClient(server.endpoint) as neighbour:
        neighbour.hello()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"protocol": 2}, "E_PROTOCOL_VERSION"),
        ({"rate": 44_101}, "E_SAMPLE_RATE"),
        ({"rate": 4_000_000}, "E_SAMPLE_RATE"),
        ({"latency": 10}, "E_LATENCY"),
    ],
)
def test_a_hello_that_cannot_be_served_is_told_why(client, fields, code):
    client.send(client.hello_header(**fields))
    assert client.wait_for(m.Error).header.code == code


def test_an_unknown_track_is_told_to_say_hello(client, source):
    client.feed(1, 0, source[:, :FRAME])
    assert client.wait_for(m.Error).header.code == "E_UNKNOWN_TRACK"


def test_an_oversize_part_costs_its_sender_only(server, source, expected):
    with WireClient(server.endpoint) as honest, WireClient(server.endpoint) as greedy:
        honest.hello()
        greedy.hello()
        greedy.send_raw([bytes(5 * 2**20)], by_audio=True)
        greedy.send_raw([bytes(2**17)])
        assert np.array_equal(honest.bounce(source, frames=FRAMES), expected)


def test_ctrl_c_ends_the_server_cleanly(tiny_folder, source):
    with ServerProcess(str(tiny_folder)) as process, WireClient(process.endpoint) as client:
        client.hello()
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        client.feed(1, 0, source[:, : 64 * FRAME])
        assert process.interrupt() == 0


def test_a_second_server_on_the_same_port_says_what_is_wrong(server, tiny):
    with pytest.raises(DemonError, match="E_BIND"):
        Server(Engine(tiny), server.endpoint)


def test_beyond_loopback_nothing_is_bound_without_keys(tiny, tmp_path):
    for endpoint in ("tcp://0.0.0.0:1", "tcp://*:1", "tcp://192.168.0.2:1", "tcp://127.0.0.1.evil:1", "epgm://x", ""):
        with pytest.raises(DemonError, match="E_BIND"):
            Server(Engine(tiny), endpoint, store=KeyStore(tmp_path))


def outbox(credit=250):
    return Client(b"c", m.Hello(3, "x", 48_000, "stream", 150, credit, "none", [], m.make_config("", 0, 0, "ode")), 0.0)


def offer(client, epoch, frame):
    client.deliver(AudioWindow("t", epoch, frame, 20, np.zeros((2, 1), dtype=np.float32)))


def test_the_outbox_forgets_what_was_acknowledged_and_dropped():
    client = outbox()
    for epoch, frame in ((1, 0), (1, 20), (2, 0)):
        offer(client, epoch, frame)
    client.mark_sent(client.due(), 0.0)
    client.acknowledge(1, 20, 20, 0.1)
    assert (client.due().epoch, client.due().frame) == (1, 20)
    client.drop(1)
    assert client.due().epoch == 2
    client.mark_sent(client.due(), 1.0)
    client.acknowledge(2, 0, 20, 1.5)
    assert client.due() is None
    client.acknowledge(2, 0, 20, 1.0 + RESEND_AFTER_S + 0.1)
    assert client.due().epoch == 2
    client.acknowledge(0, 0, 20, 9.0)
    assert client.due() is None
    assert client.frames_held == 0


def test_what_was_on_the_way_by_a_connection_that_ended_is_due_again_at_once_but_not_as_often_as_one_asks():
    client = outbox(credit=20)
    offer(client, 1, 0)
    client.mark_sent(client.due(), 0.0)
    assert client.due() is None
    client.resend(0.1)
    client.mark_sent(client.due(), 0.1)
    client.resend(0.1 + 0.5 * RESENT_AGAIN_S)
    assert client.due() is None
    client.resend(0.1 + 1.5 * RESENT_AGAIN_S)
    assert client.due().frame == 0
    client.acknowledge(1, 20, 20, 1.0)
    client.resend(2.0)
    assert client.due() is None


def test_windows_are_sent_as_far_as_the_credit_goes():
    client = outbox(credit=50)
    for k in range(5):
        offer(client, 1, 20 * k)
    sent = []
    while window := client.due():
        sent.append(window.frame)
        client.mark_sent(window, 0.0)
    assert sent == [0, 20]
    client.acknowledge(1, 20, 20, 0.1)
    assert client.due().frame == 40
    client.mark_sent(client.due(), 0.1)
    assert client.due() is None


def test_a_window_beyond_the_credit_is_sent_alone():
    client = outbox(credit=1)
    offer(client, 1, 0)
    offer(client, 1, 20)
    client.mark_sent(client.due(), 0.0)
    assert client.due() is None
    client.acknowledge(1, 20, 20, 0.1)
    assert client.due().frame == 20


def test_while_windows_arrive_nothing_is_sent_again_however_slow_the_connection():
    client = outbox()
    for k in range(10):
        offer(client, 1, 20 * k)
        client.mark_sent(client.due(), 0.0)
    for k in range(1, 10):
        client.acknowledge(1, 20 * k, 20 * k, 0.8 * RESEND_AFTER_S * k)
        assert client.due() is None
    client.acknowledge(1, 180, 180, 0.8 * RESEND_AFTER_S * 9 + RESEND_AFTER_S + 0.1)
    assert client.due().frame == 180


def test_what_was_received_and_is_still_wanted_is_sent_again():
    """The client may have had to throw it away: behind a gap, or because it was damaged."""
    client = outbox()
    offer(client, 1, 0)
    client.mark_sent(client.due(), 0.0)
    client.acknowledge(1, 0, 20, 0.1)
    client.acknowledge(1, 0, 20, 1.0)
    assert client.due() is None
    client.acknowledge(1, 0, 20, 0.1 + RESEND_AFTER_S + 0.1)
    assert client.due().frame == 0


def test_frames_lost_on_the_way_cost_no_credit_afterwards():
    client = outbox(credit=40)
    for k in range(9):
        offer(client, 1, 20 * k)
    for _ in range(2):
        client.mark_sent(client.due(), 0.0)
    client.acknowledge(1, 0, 0, RESEND_AFTER_S + 0.1)  # both are lost
    received = 0
    for k in range(4):
        assert client.due().frame == 20 * k, "nothing waits for what will not come"
        client.mark_sent(client.due(), 3.0)
        received += 20
        client.acknowledge(1, 20 * (k + 1), received, 3.0)
    assert client.frames_in_flight == 0


def test_frames_that_come_late_were_not_lost():
    client = outbox(credit=40)
    for k in range(9):
        offer(client, 1, 20 * k)
    for _ in range(2):
        client.mark_sent(client.due(), 0.0)
    client.acknowledge(1, 0, 0, RESEND_AFTER_S + 0.1)
    for _ in range(2):
        client.mark_sent(client.due(), 3.0)
    client.acknowledge(1, 40, 40, 3.1)  # the first two
    client.acknowledge(1, 40, 80, 3.2)  # and their repeats
    for _ in range(2):
        client.mark_sent(client.due(), 3.3)
    assert client.due() is None
    assert client.frames_in_flight == 40


def test_what_a_live_client_has_left_behind_is_dropped_before_it_is_sent():
    client = outbox(credit=20)
    for k in range(5):
        offer(client, 1, 20 * k)
    client.mark_sent(client.due(), 0.0)
    client.acknowledge(1, 70, 20, 0.1)
    assert client.due().frame == 60


def test_a_second_hello_gets_nothing_of_the_first(tiny):
    """What the engine still finishes for the first must not reach the second, which may use the same epoch."""
    server, routing_id = Server(Engine(tiny), "tcp://127.0.0.1:*"), b"d" + bytes(16)
    hello = m.Hello(3, "x", 48_000, "stream", 150, 250, "none", [], m.make_config("", 0, 0, "ode"))

    def finish_for(client):
        window = AudioWindow(client.track_id, 1, 0, 20, np.zeros((2, 20 * FRAME), dtype=np.float32))
        server._events.put(Event(client.track_id, window))
        server._take_events()

    try:
        server._greet(routing_id, "", None, hello)
        first = server._clients.find(routing_id, is_audio=False)
        server._greet(routing_id, "", first, hello)
        second = server._clients.find(routing_id, is_audio=False)
        finish_for(first)
        assert second.due() is None
        finish_for(second)
        assert second.due() is not None
    finally:
        server._sockets.close()


def test_a_flood_of_pings_does_not_keep_others_waiting(server):
    stop = threading.Event()

    def flood():
        with WireClient(server.endpoint) as noisy:
            noisy.hello()
            deadline = time.monotonic() + 20
            while not stop.is_set() and time.monotonic() < deadline:
                noisy.send(m.Ping(0, 0, 0, 0))

    thread = threading.Thread(target=flood)
    thread.start()
    time.sleep(1.0)
    with WireClient(server.endpoint) as client:
        began = time.monotonic()
        client.hello()
        waited = time.monotonic() - began
    stop.set()
    thread.join()
    assert waited < 5.0


def test_a_refused_hello_takes_no_place(server):
    with WireClient(server.endpoint) as client:
        client.send(client.hello_header(latency=10))
        client.wait_for(m.Error, code="E_LATENCY")
        client.send(m.Ping(0, 0, 0, 0))
        client.wait_for(m.Error, code="E_UNKNOWN_TRACK")


def test_a_client_that_never_reads_costs_nobody_else(server, source, expected):
    context = zmq.Context()
    deaf = context.socket(zmq.DEALER)
    deaf.setsockopt(zmq.RCVHWM, 1)
    deaf.setsockopt(zmq.RCVBUF, 4096)
    deaf.connect(server.endpoint)
    with WireClient(server.endpoint) as client:
        deaf.send_multipart(encode(Packet(client.hello_header())))
        deaf.send_multipart(encode(Packet(m.Begin(1, "stream", 0, 0, 0, True))))
        lanes = np.full((64, 1), 0.6, dtype=np.float32)
        audio = np.ascontiguousarray(source[:, : 64 * FRAME])
        for k in range(4):
            deaf.send_multipart(encode(Packet(m.Feed(1, 64 * k, 64), audio, lanes)))
        client.hello()
        assert np.array_equal(client.bounce(source, frames=FRAMES), expected)
    context.destroy(linger=0)


def test_a_message_on_the_wrong_socket_is_refused(client):
    client.hello()
    client.send_raw(encode(Packet(m.Ping(0, 0, 0, 0))), by_audio=True)
    assert client.wait_for(m.Error).header.code == "E_UNKNOWN_MESSAGE"
    client.send_raw(encode(Packet(m.Begin(1, "stream", 0, 0, 0, True))))
    assert client.wait_for(m.Error).header.code == "E_UNKNOWN_MESSAGE"


def test_audio_of_an_earlier_hello_is_not_taken_for_that_of_a_later_one(client, server, source):
    client.hello()
    old = client._open(client.audio.getsockopt(zmq.ROUTING_ID), audio_endpoint(server.endpoint))
    client.hello()
    old.send_multipart(encode(Packet(m.Begin(1, "stream", 0, 0, 0, True))))
    assert old.poll(10_000)
    assert decode(old.recv_multipart(), rate=48_000, lane_count=1).header.code == "E_UNKNOWN_TRACK"
    client.ping(number=1)
    assert client.wait_for(m.Pong, number=1).header.epochs == []
    old.close()


def test_a_drop_may_overtake_what_it_drops(client, source):
    client.hello()
    client.send(m.Drop(1))
    client.ping(number=1)
    client.wait_for(m.Pong, number=1)
    client.send(m.Begin(1, "stream", 0, 0, 0, True))
    client.feed(1, 0, source[:, : 64 * FRAME])
    client.send(m.Begin(2, "stream", 0, 0, 0, True))
    client.feed(2, 0, source[:, : 64 * FRAME])
    assert client.wait_for(m.Window).header.epoch == 2
    assert not [packet for packet in client.received if isinstance(packet.header, m.Error)]


def test_a_cancel_is_not_behind_audio(client, source):
    """A feed that was sent before the drop is still in the other socket's queue, or waits for the engine: it is ignored."""
    client.hello()
    client.send(m.Begin(1, "stream", 0, 0, 0, True))
    for frame in range(0, 160, 32):
        client.feed(1, frame, source[:, frame * FRAME : (frame + 32) * FRAME])
    client.send(m.Drop(1))
    client.send(m.Begin(2, "stream", 0, 0, 0, True))
    client.feed(2, 0, source[:, : 64 * FRAME])
    assert client.wait_for(m.Window, epoch=2)
    assert not [packet for packet in client.received if isinstance(packet.header, m.Error)]


def test_input_that_was_taken_is_told_without_being_asked(client, source):
    credit = client.hello().header.credit
    assert credit >= 64
    client.send(m.Begin(1, "stream", 0, 0, 0, True))
    client.feed(1, 0, source[:, : 64 * FRAME])
    assert client.wait_for(m.Pong, number=0).header.expected == [64]


def test_a_server_that_stops_says_so(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process, WireClient(process.endpoint) as client:
        client.hello()
        assert process.interrupt() == 0
        assert client.wait_for(m.Closing).header.reason


def test_any_port_means_two_ports_in_a_row(tiny):
    blocker = zmq.Context.instance().socket(zmq.ROUTER)
    port = blocker.bind_to_random_port("tcp://127.0.0.1")
    try:
        with pytest.raises(DemonError, match="E_BIND"):
            Server(Engine(tiny), f"tcp://127.0.0.1:{port - 1}")
        server = Server(Engine(tiny), "tcp://127.0.0.1:*")
        server._sockets.close()
    finally:
        blocker.close(linger=0)


def test_the_last_port_has_none_after_it():
    assert audio_endpoint("tcp://[::1]:47800") == "tcp://[::1]:47801"
    for endpoint in ("tcp://127.0.0.1:65535", "tcp://127.0.0.1:0", "tcp://127.0.0.1", "ipc://x"):
        with pytest.raises(DemonError, match="E_BIND"):
            audio_endpoint(endpoint)


def test_a_window_of_what_was_dropped_is_not_delivered():
    """A step that was under way may bring one; nobody would acknowledge it."""
    client = Client(b"c" + bytes(16), m.Hello(3, "x", 48_000, "loop", 0, 250, "none", [], m.make_config()), now=0.0)
    client.drop(5)
    client.deliver(AudioWindow("t", 5, 0, 1, np.zeros((2, FRAME), np.float32)))
    assert client.due() is None
    client.deliver(AudioWindow("t", 6, 0, 1, np.zeros((2, FRAME), np.float32)))
    assert client.due().epoch == 6


def test_a_ping_that_tells_nothing_new_is_not_passed_on_to_the_engine():
    client = Client(b"c" + bytes(16), m.Hello(3, "x", 48_000, "stream", 150, 250, "none", [], m.make_config()), now=0.0)
    assert not client.has_news(0, 0, 10.0)
    assert client.has_news(1, 0, 10.0)
    assert not client.has_news(1, 0, 10.0 + HEARD_AGAIN_S / 2)
    assert client.has_news(1, 25, 10.0 + HEARD_AGAIN_S / 2)
    assert client.has_news(1, 25, 10.0 + 2 * HEARD_AGAIN_S), "it may have overtaken its begin"


def test_an_engine_that_fails_ends_the_server(tiny, monkeypatch):
    """Whoever watches it starts it again; else its tracks would wait for ever for a server that answers their heartbeats."""
    server = Server(Engine(tiny), "tcp://127.0.0.1:*")

    def fail():
        raise MemoryError("of ours")

    monkeypatch.setattr(server._worker._engine, "step", fail)
    ended = []

    def serve():
        try:
            server.run()
        except DemonError as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with WireClient(server.endpoint) as client:
        client.hello()
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        for frame in range(0, FRAMES, 32):
            client.feed(1, frame, np.zeros((2, 32 * FRAME), dtype=np.float32))
        client.wait_for(m.Closing)
    thread.join(60)
    assert not thread.is_alive()
    assert [(error.code, error.message) for error in ended] == [("E_ENGINE", "MemoryError: of ours")]
