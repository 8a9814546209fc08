# SPDX-License-Identifier: Apache-2.0
"""Packed audio: the bits unchanged by codec and server, and nothing that a frame may hold does harm."""

from __future__ import annotations

import contextlib
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from wire import ServerProcess, WireClient

from engine_server.serve.client import Client
from engine_server.tracks.references import reference_hash
from engine_server.tracks.windows import AudioWindow
from shared_protocol import messages as m
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.errors import DemonError
from shared_protocol.packing import pack, unpack

FRAMES, FRAME = 40, 1920
ENDS = np.array([0x80000000, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32).view(np.float32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


def window(audio):
    return Packet(m.Window(1, 0, 0, 1, "zstd"), audio)


def decoded(parts):
    return decode(parts, rate=8000, lane_count=2)


def tone(rate=8000, samples=320):
    t = np.arange(samples) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * 110 * t), 0.2 * np.sin(2 * np.pi * 330 * t)]).astype(np.float32)


@given(arrays.arrays(np.float32, (2, 320), elements=FINITE, fill=FINITE))
@example(np.zeros((2, 320), np.float32))
@example(np.full((2, 320), -0.0, np.float32))
@example(np.resize(ENDS, (2, 320)))
def test_audio_comes_back_bit_for_bit(audio):
    assert decoded(encode(window(audio))).audio.tobytes() == audio.tobytes()


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 10))
def test_noise_comes_back_bit_for_bit(seed, scale):
    audio = (scale * np.random.default_rng(seed).standard_normal((2, 320))).astype(np.float32)
    assert decoded(encode(window(audio))).audio.tobytes() == audio.tobytes()


def test_what_would_not_become_shorter_travels_as_it_is():
    bits = np.random.default_rng(1).integers(0, 2**32, (2, 320), np.uint32)
    audio = np.where(bits & 0x7F800000 == 0x7F800000, np.uint32(1), bits).view(np.float32)
    assert encode(window(audio)) == encode(Packet(m.Window(1, 0, 0, 1), audio))
    assert decoded(encode(window(audio))).header.packing == "none"


def test_only_audio_is_packed():
    lanes = np.zeros((1, 2), np.float32)
    header, audio, plain = encode(Packet(m.Feed(1, 0, 1, "zstd"), tone(), lanes))
    assert len(audio) < tone().nbytes
    assert plain == lanes.tobytes()
    assert msgspec.msgpack.decode(header)["packing"] == "zstd"
    piece = Packet(m.Reference("5f" * 32, 8000, 320, 0, 320, "zstd"), tone())
    assert decoded(encode(piece)).audio.tobytes() == tone().tobytes()


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage):
    for bytes_ in (garbage, b"\x28\xb5\x2f\xfd" + garbage):
        with pytest.raises(DemonError, match="packed payload audio") as caught:
            unpack(bytes_, 2560)
        assert caught.value.code == "E_PAYLOAD_SIZE"


@given(st.integers(0, 30), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_gives_as_many_bytes(position, value):
    frame = bytearray(pack(tone().tobytes()))
    frame[position] = value
    with contextlib.suppress(DemonError):
        assert len(unpack(bytes(frame), tone().nbytes)) == tone().nbytes


def test_a_frame_that_states_gigabytes_costs_no_memory():
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**33).to_bytes(8, "little") + b"\x03\x00\x10\x00"
    tracemalloc.start()
    try:
        with pytest.raises(DemonError):
            unpack(frame, 2560)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_window_is_packed_once_until_it_is_sent():
    hello = m.Hello(3, "x", 8000, "stream", 1, 250, "zstd", [], m.make_config())
    client = Client(b"c" * 17, hello, 0.0)
    one, two = (AudioWindow("t", 1, frame, 1, tone()) for frame in (0, 1))
    client.deliver(one)
    first = client.encoded(client.due())
    assert client.encoded(client.due()) is first
    client.mark_sent(one, 0.0)
    client.deliver(two)
    assert decoded(client.encoded(client.due())).header == m.Window(1, 0, 1, 1, "zstd")


@pytest.fixture(scope="module")
def server(tiny_folder):
    with ServerProcess(str(tiny_folder)) as process:
        yield process


def bounce(server, packing):
    with WireClient(server.endpoint) as client:
        assert client.hello(packing=packing).header.packing == packing
        audio = client.bounce(tone(48_000, FRAMES * FRAME), frames=FRAMES)
        return audio, {p.header.packing for p in client.received if isinstance(p.header, m.Window)}


def test_a_packed_bounce_has_the_bits_of_one_that_is_not(server):
    plain, sent = bounce(server, "none")
    assert sent == {"none"}
    packed, sent = bounce(server, "zstd")
    assert "zstd" in sent
    assert packed.tobytes() == plain.tobytes()


def test_a_packed_reference_is_the_one_that_was_sent(server):
    with WireClient(server.endpoint) as client:
        client.hello(packing="zstd")
        audio = tone(48_000, 100_000)
        with_hash = msgspec.structs.replace(m.make_config(), timbre=reference_hash(audio, 48_000))
        client.send(m.Configure(1, with_hash))
        client.wait_for(m.Error, code="E_REFERENCE")
        client.wait_for(m.Referenced, hash=client.send_reference(audio, 48_000))


def test_a_broken_frame_costs_only_its_message(server):
    with WireClient(server.endpoint) as other, WireClient(server.endpoint) as client:
        other.hello(packing="zstd")
        client.hello()
        client.send(m.Begin(1, "stream", 0, 0, 0, True))
        lanes = np.full((1, 1), 0.6, np.float32)
        good = encode(Packet(m.Feed(1, 0, 1, "zstd"), tone(48_000, FRAME), lanes))
        broken = [good[1][:-1], good[1] + b"x", b"", pack(bytes(4 * FRAME)), tone(48_000, FRAME).tobytes()]
        for frame in broken:
            client.send_raw([good[0], frame, good[2]], by_audio=True)
            client.wait_for(m.Error, code="E_PAYLOAD_SIZE")
        client.send_raw(good, by_audio=True)  # packed, though this track did not ask for it
        client.wait_for(m.Pong, expected=[1])
        other.ping(number=5)
        other.wait_for(m.Pong, number=5)
