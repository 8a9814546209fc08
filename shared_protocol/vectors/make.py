# SPDX-License-Identifier: Apache-2.0
"""Write the golden messages of this folder: `python -m shared_protocol.vectors.make`.

A file is a little-endian uint32 number of parts, then per part its uint32 length and bytes. `index.txt` has a line per
file: `FILE valid TYPE RATE LANES` or `FILE invalid CODE RATE LANES`. Both languages must decode every valid file and encode
it to the same bytes, and answer every invalid one with its code. `settled.txt` and `timebase.txt` hold both languages to the same
lane values and frames. Stored vectors never change without a new protocol version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from shared_protocol import messages as m
from shared_protocol.codec import Floats, Packet, encode
from shared_protocol.lanes import load_lanes, settle
from shared_protocol.timebase import first_sample, frame_of_sample

FOLDER = Path(__file__).parent
CONFIG = m.Config(prompt="strings, slow", seed=7, steps=0, solver="ode")


def pack_parts(parts: list[bytes]) -> bytes:
    """The file form of a message."""
    return struct.pack("<I", len(parts)) + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack_parts(data: bytes) -> list[bytes]:
    """The message of a file."""
    (count,), offset, parts = struct.unpack_from("<I", data), 4, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", data, offset)
        parts.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return parts


def _ramp(rows: int, columns: int) -> Floats:
    """Values that are exact in binary32 and differ everywhere."""
    return (np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) / np.float32(4096)) - np.float32(0.25)


def valid_messages() -> Iterator[tuple[str, Packet, int, int]]:
    """(name, message, rate, number of lanes)"""
    umlaut = m.Config(prompt="Flöte und \u5f26\u697d 🎻", seed=2**32 - 1, steps=50, solver="sde")
    yield "hello", Packet(m.Hello(1, "DEMON 0.1.0", 48000, 150, ["denoise", "velocity_scale"], CONFIG)), 48000, 2
    yield "hello_no_lanes", Packet(m.Hello(1, "x", 8000, 1, [], umlaut)), 8000, 0
    yield (
        "hello_long",
        Packet(m.Hello(1, "c" * 64, 192000, 3000, [f"lane_{k}" for k in range(256)], CONFIG)),
        192000,
        256,
    )
    yield "configure", Packet(m.Configure(3, umlaut)), 48000, 0
    yield "configure_long_prompt", Packet(m.Configure(2**31 - 1, m.Config("p" * 4096, 0, 0, "ode"))), 48000, 0
    yield "begin", Packet(m.Begin(1, 0, 0, 0, True)), 48000, 0
    yield "begin_negative", Packet(m.Begin(2**31 - 1, -(2**53), -200000, 5_000_000_000, False)), 44100, 0
    yield "feed", Packet(m.Feed(1, -3, 2), _ramp(2, 2 * 320), _ramp(2, 3)), 8000, 3
    yield "feed_no_lanes", Packet(m.Feed(200, 70000, 1), _ramp(2, 320), _ramp(1, 0)), 8000, 0
    yield "feed_48k", Packet(m.Feed(1, 0, 1), _ramp(2, 1920), _ramp(1, 2)), 48000, 2
    yield "end", Packet(m.End(1, 175)), 48000, 0
    yield "drop", Packet(m.Drop(0)), 48000, 0
    yield "ping", Packet(m.Ping(0, 0)), 48000, 0
    yield "ping_wanted", Packet(m.Ping(7, -129)), 48000, 0
    yield "bye", Packet(m.Bye()), 48000, 0
    yield (
        "welcome",
        Packet(m.Welcome(1, "demon-bridge 0.1.0", "embedded", "5f" * 32, "eager cpu float32", ["denoise"], 64, 160)),
        48000,
        0,
    )
    yield "configured", Packet(m.Configured(65536)), 48000, 0
    yield "window", Packet(m.Window(1, 30, 2), _ramp(2, 2 * 1764)), 44100, 0
    yield "progress", Packet(m.Progress(1, -20, 3, 8)), 48000, 0
    yield "pong", Packet(m.Pong(1, 128)), 48000, 0
    yield "pong_negative", Packet(m.Pong(1, -32769)), 48000, 0
    yield "error", Packet(m.Error("E_FEED_GAP", "frame 12 came where 10 was expected", 4)), 48000, 0


def invalid_messages() -> Iterator[tuple[str, list[bytes], str, int, int]]:
    """(name, parts, error code, rate, number of lanes)"""

    def header(**fields: object) -> bytes:
        return msgspec.msgpack.encode(fields)

    feed = encode(Packet(m.Feed(1, 0, 1), _ramp(2, 320), _ramp(1, 2)))
    not_finite = _ramp(2, 320)
    not_finite[1, 7] = np.nan
    infinite = _ramp(1, 2)
    infinite[0, 1] = np.inf
    config = {"prompt": "", "seed": 0, "steps": 0, "solver": "ode"}
    yield "bad_empty_part", [b""], "E_MALFORMED", 48000, 0
    yield "bad_not_msgpack", [b"\xc1\xff\x00"], "E_MALFORMED", 48000, 0
    yield "bad_truncated_header", [feed[0][:-2], *feed[1:]], "E_MALFORMED", 8000, 2
    yield "bad_trailing_bytes", [feed[0] + b"\x00", *feed[1:]], "E_MALFORMED", 8000, 2
    yield "bad_array_header", [msgspec.msgpack.encode([1, 2])], "E_MALFORMED", 48000, 0
    yield "bad_no_type", [header(epoch=1)], "E_MALFORMED", 48000, 0
    yield "bad_unknown_type", [header(type="shout", epoch=1)], "E_UNKNOWN_MESSAGE", 48000, 0
    yield "bad_missing_field", [header(type="ping", epoch=1)], "E_MALFORMED", 48000, 0
    yield "bad_wrong_type", [header(type="ping", epoch="1", wanted=0)], "E_MALFORMED", 48000, 0
    yield "bad_float_for_int", [header(type="ping", epoch=1.0, wanted=0)], "E_MALFORMED", 48000, 0
    yield "bad_bool_for_int", [header(type="ping", epoch=True, wanted=0)], "E_MALFORMED", 48000, 0
    yield "bad_negative_epoch", [header(type="ping", epoch=-1, wanted=0)], "E_FIELD", 48000, 0
    yield "bad_huge_int", [header(type="ping", epoch=2**64 - 1, wanted=0)], "E_FIELD", 48000, 0
    yield "bad_position", [header(type="end", epoch=1, frame=2**53 + 1)], "E_FIELD", 48000, 0
    yield "bad_count", [header(type="feed", epoch=1, frame=0, count=65), *feed[1:]], "E_FIELD", 8000, 2
    yield "bad_version", [header(type="hello", protocol=2, greeting="hi")], "E_PROTOCOL_VERSION", 48000, 0
    yield (
        "bad_long_prompt",
        [header(type="configure", revision=1, config=config | {"prompt": "p" * 4097})],
        "E_FIELD",
        48000,
        0,
    )
    yield "bad_solver", [header(type="configure", revision=1, config=config | {"solver": "heun"})], "E_FIELD", 48000, 0
    yield (
        "bad_repeated_lane",
        [header(type="hello", protocol=1, client="x", rate=48000, latency=1, lanes=["a", "a"], config=config)],
        "E_FIELD",
        48000,
        0,
    )
    yield "bad_short_payload", [feed[0], feed[1][:-4], feed[2]], "E_PAYLOAD_SIZE", 8000, 2
    yield "bad_long_payload", [feed[0], feed[1], feed[2] + bytes(4)], "E_PAYLOAD_SIZE", 8000, 2
    yield "bad_missing_payload", feed[:2], "E_MALFORMED", 8000, 2
    yield "bad_extra_part", [*encode(Packet(m.Bye())), b"x"], "E_MALFORMED", 48000, 0
    yield "bad_nan_audio", encode(Packet(m.Feed(1, 0, 1), not_finite, _ramp(1, 2))), "E_NOT_FINITE", 8000, 2
    yield "bad_infinite_lane", encode(Packet(m.Feed(1, 0, 1), _ramp(2, 320), infinite)), "E_NOT_FINITE", 8000, 2
    yield (
        "bad_hash",
        [
            header(
                type="welcome",
                protocol=1,
                server="s",
                checkpoint="c",
                checkpoint_hash="XY" * 32,
                backend="b",
                lanes=[],
                minimum_latency=1,
                retain=0,
            )
        ],
        "E_FIELD",
        48000,
        0,
    )


def settled_values() -> Iterator[str]:
    """`LANE INPUT OUTPUT`, values as the eight hexadecimal digits of their binary32: see `shared_protocol.lanes.settle`."""
    rng = np.random.default_rng(1)
    for lane in load_lanes().values():
        span = lane.maximum - lane.minimum
        proportions = np.concatenate([np.linspace(0, 1, 9), rng.random(7), [-0.1, 1.1]])
        values = (lane.minimum + span * proportions).astype(np.float32)
        for value, settled in zip(values, settle(lane, values), strict=True):
            yield f"{lane.id} {value.view(np.uint32):08x} {settled.view(np.uint32):08x}"


def timebase_values() -> Iterator[str]:
    """`RATE SAMPLE FRAME FIRST`: the frame that contains a sample, and that frame's first sample."""
    for rate in (8000, 11025, 22050, 44100, 48000, 96000, 192000):
        size = rate // 25
        for sample in (0, 1, size - 1, size, -1, -size, -size - 1, 10**9 + 7, -(10**9) - 7, 2**53, -(2**53)):
            frame = frame_of_sample(sample, rate)
            yield f"{rate} {sample} {frame} {first_sample(frame, rate)}"


def main() -> None:
    (FOLDER / "settled.txt").write_text("\n".join(settled_values()) + "\n", encoding="ascii")
    (FOLDER / "timebase.txt").write_text("\n".join(timebase_values()) + "\n", encoding="ascii")
    index = []
    for name, packet, rate, lanes in valid_messages():
        (FOLDER / f"{name}.bin").write_bytes(pack_parts(encode(packet)))
        index.append(f"{name}.bin valid {type(packet.header).__name__.lower()} {rate} {lanes}")
    for name, parts, code, rate, lanes in invalid_messages():
        (FOLDER / f"{name}.bin").write_bytes(pack_parts(parts))
        index.append(f"{name}.bin invalid {code} {rate} {lanes}")
    (FOLDER / "index.txt").write_text("\n".join(index) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
