# SPDX-License-Identifier: Apache-2.0
"""Loops, commits, references and LoRAs over a real socket, as a plugin meets them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from track_rig import music, write_lora
from wire import ServerProcess, WireClient

from engine_server.serve.client import RESEND_AFTER_S, Client
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.lanes import CLIP_LANES
from engine_server.tracks.references import reference_hash
from engine_server.tracks.render import render
from engine_server.tracks.render_clip import render_clip
from engine_server.tracks.windows import AudioWindow
from shared_protocol import messages as m

FRAMES, FRAME = 60, 1920
CLIP = music(FRAMES)
CONFIG = m.make_config("strings", 7)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("loras")
    write_lora(path / "choir.safetensors", tiny)
    return path


@pytest.fixture(scope="module")
def server(tiny_folder, folder):
    with ServerProcess(str(tiny_folder), loras=str(folder)) as process:
        yield process


@pytest.fixture
def client(server):
    with WireClient(server.endpoint, lanes=("denoise", "velocity_scale")) as one:
        yield one


@pytest.fixture(scope="module")
def expected(tiny):
    table = build_table({"denoise": 0.6, "velocity_scale": 0.6}, FRAMES, CLIP_LANES)
    return render_clip(Engine(tiny), CLIP, 48_000, table, CONFIG)


def greet(client, **fields):
    return client.hello(**({"mode": "loop", "latency": 0, "config": CONFIG} | fields)).header


def collect(client, *, epoch, take=None):
    """The windows of all of an epoch, by frame; of a loop those of a take or of later ones.

    Those count too that came while something else was waited for: a loop that nobody plays makes no others.
    """
    came = [
        packet for packet in client.received if isinstance(packet.header, m.Window) and packet.header.epoch == epoch
    ]
    parts = {packet.header.frame: packet.audio for packet in came if take is None or packet.header.take >= take}
    while len(parts) < 3:
        packet = client.wait_for(m.Window, epoch=epoch)
        if take is None or packet.header.take >= take:
            parts[packet.header.frame] = packet.audio
            if take is None:
                client.ping(epoch, packet.header.frame + packet.header.count)
    return np.concatenate([parts[frame] for frame in sorted(parts)], axis=1)


def test_welcome_says_what_there_is(client, folder):
    welcome = greet(client)
    assert "feedback" in welcome.lanes
    costs = dict(zip(welcome.lanes, welcome.costs, strict=True))
    assert costs["lora_1"] == "encode"
    assert costs["denoise"] == "free"
    assert (welcome.steps, welcome.depth) == (4, 4)
    assert welcome.clip_limit == 15_000
    assert "choir" in welcome.lora_names
    stream = client.hello().header
    assert "feedback" not in stream.lanes
    assert set(stream.costs) == {"free"}
    assert stream.clip_limit == 0


def test_a_loop_an_edit_and_a_commit(client, expected):
    greet(client)
    client.clip(CLIP, start=30, deliver_from=30)
    client.ping(1, 60)
    assert collect(client, epoch=1, take=1).shape == expected.shape
    client.edit(1, 5, (0, 0, FRAMES, 0.3), (0, 0, FRAMES, 0.6), (1, 20, FRAMES, 0.2))
    assert client.wait_for(m.Edited).header == m.Edited(1, 5)
    collect(client, epoch=1, take=2)
    client.clip(CLIP, epoch=2, kind="commit")
    assert np.array_equal(collect(client, epoch=2), expected)
    client.send(m.Drop(1))


def test_a_commit_goes_on_after_a_crash_with_the_same_bits(tiny_folder, expected):
    lanes = ("denoise", "velocity_scale")
    with ServerProcess(str(tiny_folder)) as process, WireClient(process.endpoint, lanes=lanes) as client:
        greet(client)
        client.clip(CLIP, kind="commit")
        first = client.wait_for(m.Window)
        process.kill()
        process.start()
        client.ping(1, first.header.count)
        client.wait_for(m.Error, code="E_UNKNOWN_TRACK")
        greet(client)
        client.clip(CLIP, kind="commit", deliver_from=first.header.count)
        parts, frames = [first.audio], first.header.count
        while frames < FRAMES:
            window = client.wait_for(m.Window, frame=frames)
            parts.append(window.audio)
            frames += window.header.count
    assert np.array_equal(np.concatenate(parts, axis=1), expected)


def test_a_missing_reference_is_asked_for_and_waited_for(client, tiny):
    audio = music(40, seed=2)
    name = reference_hash(audio, 48_000)
    config = m.make_config("strings", 7, timbre=name)
    greet(client, config=config)
    error = client.wait_for(m.Error).header
    assert (error.code, error.message[:65]) == ("E_REFERENCE", name + ":")
    client.clip(CLIP, kind="commit")
    with pytest.raises(TimeoutError):
        client.wait_for(m.Window, timeout_s=1.0)
    client.send_reference(audio, 48_000, size=10_000)
    client.wait_for(m.Referenced, hash=name)
    table = build_table({"denoise": 0.6, "velocity_scale": 0.6}, FRAMES, CLIP_LANES)
    wanted = render_clip(Engine(tiny), CLIP, 48_000, table, config, references=[(audio, 48_000)])
    assert np.array_equal(collect(client, epoch=1), wanted)


def test_an_unknown_lora_stops_the_track_until_it_is_taken_back(client, folder, expected):
    greet(client)
    client.clip(CLIP, kind="commit")
    client.send(m.Configure(4, m.make_config("strings", 7, loras=["ab" * 32])))
    client.wait_for(m.Configured, revision=4)
    error = client.wait_for(m.Error, code="E_LORA").header
    assert error.message.startswith("ab" * 32)
    client.send(m.Configure(5, CONFIG))
    client.wait_for(m.Configured, revision=5)
    assert np.array_equal(collect(client, epoch=1), expected)


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"latency": 5}, "E_LATENCY"), ({"mode": "stream"}, "E_LATENCY"), ({"rate": 44_101}, "E_SAMPLE_RATE")],
)
def test_a_hello_that_cannot_be_served_is_told_why(client, fields, code):
    client.send(client.hello_header(**({"mode": "loop", "latency": 0} | fields)))
    assert client.wait_for(m.Error).header.code == code


def test_bad_edits_and_references_have_names_and_cost_nothing(client):
    greet(client)
    client.edit(1, 1, (0, 0, 1, 0.5))
    client.wait_for(m.Error, code="E_EPOCH")
    client.clip(CLIP)
    for edit, code in (((2, 0, 1, 0.5), "E_FIELD"), ((0, 50, 61, 0.5), "E_FIELD"), ((0, 0, 1, 7.0), "E_LANE_RANGE")):
        client.edit(1, 2, edit)
        client.wait_for(m.Error, code=code, epoch=1)
    client.edit(1, 2, (0, 0, 1, float("nan")))
    client.wait_for(m.Error, code="E_NOT_FINITE")
    client.send_reference(music(2), 48_000)
    client.wait_for(m.Error, code="E_FIELD")
    client.send(m.Begin(2, "stream", 0, 0, 0, True))
    client.wait_for(m.Error, code="E_FIELD")
    client.send(m.Begin(3, "loop", 0, 0, 0, False))
    client.send(m.End(3, 0))
    client.wait_for(m.Error, code="E_CLIP")
    collect(client, epoch=1, take=1)


def test_pong_tells_the_rhythm(client):
    greet(client)
    client.clip(CLIP)
    collect(client, epoch=1, take=1)
    client.ping(1, 0)
    client.wait_for(m.Pong)
    client.ping(1, 0)
    busy = client.wait_for(m.Pong).header
    assert busy.ticks > 0.0
    assert busy.generations > 0.0
    time.sleep(3.2)
    for _ in range(2):
        client.ping(1, 0)
        idle = client.wait_for(m.Pong).header
        time.sleep(0.1)
    assert (idle.ticks, idle.generations) == (0.0, 0.0)


def test_a_stream_still_is_one(client, tiny):
    client.hello(config=CONFIG)
    table = build_table({"denoise": 0.6, "velocity_scale": 0.6}, FRAMES)
    wanted = render(Engine(tiny), CLIP, 48_000, table, CONFIG)
    assert np.array_equal(client.bounce(CLIP, frames=FRAMES), wanted)


def test_a_slow_connection_gets_the_newest_take_once():
    client = Client(b"c", m.Hello(3, "x", 48_000, "loop", 0, 250, "none", [], CONFIG), 0.0)
    for take in (1, 2):
        for frame in (0, 25):
            client.deliver(AudioWindow("t", 1, frame, 25, np.zeros((2, 1), dtype=np.float32), take))
    sent = []
    while window := client.due():
        sent.append((window.frame, window.take))
        client.mark_sent(window, 0.0)
    assert sorted(sent) == [(0, 2), (25, 2)]
    client.acknowledge(1, 0, 50, 10.0)
    assert client.due() is None
    client.deliver(AudioWindow("t", 1, 0, 25, np.zeros((2, 1), dtype=np.float32), 3))
    client.drop(1)
    assert client.due() is None


def test_takes_wait_for_credit_and_are_replaced_meanwhile():
    client = Client(b"c", m.Hello(3, "x", 48_000, "loop", 0, 30, "none", [], CONFIG), 0.0)

    def offer(take, frame=0):
        client.deliver(AudioWindow("t", 1, frame, 25, np.zeros((2, 1), dtype=np.float32), take))

    offer(1)
    client.mark_sent(client.due(), 0.0)
    for take in (2, 3, 4):
        offer(take)
        assert client.due() is None
    client.acknowledge(1, 0, 25, 0.1)
    assert client.due().take == 4
    client.mark_sent(client.due(), 0.2)
    offer(5)
    client.acknowledge(1, 0, 25, 1.0)
    assert client.due() is None
    client.acknowledge(1, 0, 25, 0.2 + RESEND_AFTER_S + 0.1)  # it was lost on the way: the credit is not
    assert client.due().take == 5
