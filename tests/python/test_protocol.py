# SPDX-License-Identifier: Apache-2.0
"""The wire format: golden bytes, named errors, and garbage that must never get past the codec."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_protocol import messages as m
from shared_protocol import vectors
from shared_protocol.codec import Packet, decode, encode
from shared_protocol.errors import DemonError
from shared_protocol.lanes import load_lanes, markdown_table, settle
from shared_protocol.timebase import first_sample, frame_of_sample, frames_to_cover, is_valid_rate
from shared_protocol.vectors.make import invalid_messages, settled_values, timebase_values, unpack_parts, valid_messages
from shared_protocol.vectors.packed import packed_messages

FOLDER = Path(vectors.__file__).parent
INDEX = [line.split() for line in (FOLDER / "index.txt").read_text().splitlines()]


def test_the_index_lists_every_file_and_every_message_type():
    assert sorted(row[0] for row in INDEX) == sorted(path.name for path in FOLDER.glob("*.bin"))
    assert {row[2] for row in INDEX if row[1] == "valid"} == {c.__name__.lower() for c in m.Message.__subclasses__()}
    assert len(INDEX) == sum(len(list(some())) for some in (valid_messages, packed_messages, invalid_messages))


@pytest.mark.parametrize("row", INDEX, ids=[row[0] for row in INDEX])
def test_golden_bytes(row):
    name, kind, what, rate, lanes = row
    parts = unpack_parts((FOLDER / name).read_bytes())
    if kind == "valid":
        packet = decode(parts, rate=int(rate), lane_count=int(lanes))
        assert type(packet.header).__name__.lower() == what
        assert encode(packet) == parts
    elif kind == "packed":
        packet = decode(parts, rate=int(rate), lane_count=int(lanes))
        plain = packet._replace(header=msgspec.structs.replace(packet.header, packing="none"))
        assert encode(plain) == unpack_parts((FOLDER / what).read_bytes())
    else:
        with pytest.raises(DemonError) as caught:
            decode(parts, rate=int(rate), lane_count=int(lanes))
        assert caught.value.code == what


@pytest.mark.parametrize(
    ("name", "packet", "rate", "lanes"), list(valid_messages()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_stored_vectors_are_what_the_generator_writes(name, packet, rate, lanes):
    assert encode(packet) == unpack_parts((FOLDER / f"{name}.bin").read_bytes())


def test_lane_values_and_frames_are_those_of_the_vectors():
    assert (FOLDER / "settled.txt").read_text().splitlines() == list(settled_values())
    assert (FOLDER / "timebase.txt").read_text().splitlines() == list(timebase_values())
    lane = load_lanes()["velocity_scale"]
    assert settle(lane, np.float32([1.000004, 1.000006, 2.5]))[:].tolist() == np.float32([1.0, 1.00001, 2.0]).tolist()


def test_keys_in_any_order_and_unknown_keys_are_accepted():
    header = msgspec.msgpack.encode(
        {"wanted": 3, "future": [1, {"x": None}], "received": 4, "epoch": 2, "number": 1, "type": "ping"}
    )
    assert decode([header], rate=48000, lane_count=0).header == m.Ping(1, 2, 3, 4)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_raises_a_named_error(parts):
    with pytest.raises(DemonError) as caught:
        decode(parts, rate=8000, lane_count=2)
    assert caught.value.code.startswith("E_")


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_in_a_header_never_escapes_as_another_exception(position, value):
    parts = encode(
        Packet(m.Hello(3, "x", 48000, "stream", 150, 100, "none", ["denoise"], m.make_config("p", 1, 0, "ode")))
    )
    header = bytearray(parts[0])
    header[position % len(header)] = value
    with contextlib.suppress(DemonError):
        decode([bytes(header)], rate=48000, lane_count=1)


def test_lane_table_is_documented_and_neutral_lanes_are_in_range():
    table = Path(__file__).parents[2] / "docs" / "lanes.md"
    assert markdown_table() in table.read_text(encoding="utf-8"), "run: python -m shared_protocol.document"
    lanes = load_lanes()
    assert next(iter(lanes)) == "denoise"
    assert all(len(lane.id) <= 32 and lane.help.endswith(".") for lane in lanes.values())


@given(st.integers(-(10**9), 10**9), st.sampled_from([8000, 44100, 48000, 96000, 192000]))
def test_every_sample_lies_inside_its_frame(sample, rate):
    frame = frame_of_sample(sample, rate)
    assert first_sample(frame, rate) <= sample < first_sample(frame + 1, rate)


def test_rates():
    assert all(map(is_valid_rate, (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000)))
    assert not any(map(is_valid_rate, (0, -48000, 7975, 44101, 384000)))
    assert frames_to_cover(1, 48000) == 1
    assert frames_to_cover(1920, 48000) == 1
    assert frames_to_cover(1921, 48000) == 2


def test_float_payloads_keep_every_bit():
    audio = np.frombuffer(np.random.default_rng(0).bytes(2 * 320 * 4), "<f4").reshape(2, 320).copy()
    audio[~np.isfinite(audio)] = 0.0
    packet = decode(encode(Packet(m.Window(1, 0, 0, 1), audio)), rate=8000, lane_count=0)
    assert packet.audio is not None
    assert packet.audio.tobytes() == audio.tobytes()
