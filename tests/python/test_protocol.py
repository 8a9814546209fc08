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


def code_of(*parts):
    with pytest.raises(DemonError) as caught:
        decode(parts, rate=48000, lane_count=0)
    return caught.value.code


def drop(**fields):
    return msgspec.msgpack.encode({"type": "drop", "epoch": 1} | fields)


def nested(depth):
    return [nested(depth - 1)] if depth > 0 else 0


def test_a_header_has_at_most_64_kib():
    spare = 65_536 - len(drop(later="x" * 60_000))
    assert decode([drop(later="x" * (60_000 + spare))], rate=48000, lane_count=0).header == m.Drop(1)
    assert code_of(drop(later="x" * (60_001 + spare))) == "E_MALFORMED"


def test_what_is_unknown_may_neither_be_large_nor_deep():
    for later in (nested(7), [0] * 4096, {str(k): k for k in range(4096)}):
        assert decode([drop(later=later)], rate=48000, lane_count=0).header == m.Drop(1)
    for later in (nested(8), nested(500), [0] * 4097, {str(k): k for k in range(4097)}):
        assert code_of(drop(later=later)) == "E_MALFORMED"


@pytest.mark.parametrize(
    "header",
    [
        b"\x83\xa4type\xa4drop\xa5epoch\x01\xa5epoch\x01",
        b"\x83\xa4type\xa4drop\xa5epoch\x01\xa4type\xa4drop",
        b"\x83\xa4type\xa4drop\xa5epoch\x01\xa5later\x82\xa1x\x00\xa1x\x00",
        b"\x83\xa4type\xa4drop\xa5epoch\x01\xa5later\x81\x00\x00",
        b"\x83\xa4type\xa4drop\xa5epoch\x01\xa2\xc3\x28\x00",
    ],
    ids=["twice", "two types", "twice inside", "number inside", "not UTF-8"],
)
def test_keys_are_text_and_not_there_twice(header):
    assert code_of(header) == "E_MALFORMED"


def test_an_unknown_type_is_told_whatever_else_is_in_the_header():
    odd = b"\xa1x\xd4\xff\x00" + b"\xa1y\xa1\xff"  # an impossible time stamp and text that is not UTF-8
    assert code_of(b"\x83\xa4type\xa5shout" + odd) == "E_UNKNOWN_MESSAGE"


def test_only_a_whole_number_is_another_version():
    assert code_of(msgspec.msgpack.encode({"type": "hello", "protocol": True})) == "E_MALFORMED"
    assert code_of(msgspec.msgpack.encode({"type": "hello", "protocol": 70_000})) == "E_PROTOCOL_VERSION"


def test_a_hello_of_another_version_may_have_other_parts():
    theirs = m.Hello(65535, "x", 48000, "stream", 150, 250, "none", [], m.make_config())
    assert code_of(*encode(Packet(theirs)), b"new") == "E_PROTOCOL_VERSION"


def test_an_engine_names_a_lane_once():
    welcome = next(packet.header for name, packet, *_ in valid_messages() if name == "welcome")
    fields = msgspec.to_builtins(welcome) | {"lanes": ["denoise"] * len(welcome.lanes)}
    assert code_of(msgspec.msgpack.encode(fields)) == "E_FIELD"


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
