# SPDX-License-Identifier: Apache-2.0
"""Write the golden messages of this folder: `python -m shared_protocol.vectors.make`.

A file is a little-endian uint32 number of parts, then per part its uint32 length and bytes. `index.txt` has a line per file:

    FILE valid TYPE RATE LANES: decodes, and encodes to the same bytes
    FILE packed OTHER RATE LANES: decodes, and encodes with packing `none` to the bytes of the file OTHER
    FILE invalid CODE RATE LANES: is answered with its code

in both languages. `settled.txt` and `timebase.txt` hold both to the same lane values and frames. Stored vectors never change
without a new protocol version.
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
from shared_protocol.vectors.packed import badly_packed_messages, packed_messages, unpacked_messages

FOLDER = Path(__file__).parent
CONFIG = m.make_config("strings, slow", 7)
FULL_CONFIG = m.make_config(
    "Flöte und \u5f26\u697d 🎻",
    2**32 - 1,
    50,
    "sde",
    prompt_b="verzerrte Gitarre",
    loras=["0a" * 32, "", "f1" * 32],
    timbre="5f" * 32,
    structure="c0" * 32,
    feedback_rounds=8,
    bpm=400,
    meter=16,
)
WELCOME = m.Welcome(
    3,
    "0f" * 16,
    250,
    "none",
    "demon-bridge 0.1.0",
    "embedded",
    "5f" * 32,
    "eager cpu float32",
    ["denoise", "lora_1", "prompt_blend"],
    ["free", "refit", "encode"],
    64,
    160,
    8,
    4,
    15000,
    ["ab" * 32],
    ["choir"],
)


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
    yield (
        "hello",
        Packet(m.Hello(3, "DEMON 0.1.0", 48000, "stream", 150, 100, "none", ["denoise", "velocity_scale"], CONFIG)),
        48000,
        2,
    )
    yield (
        "hello_loop",
        Packet(m.Hello(3, "DEMON 0.1.0", 44100, "loop", 0, 3000, "zstd", ["denoise"], FULL_CONFIG)),
        44100,
        1,
    )
    yield "hello_no_lanes", Packet(m.Hello(3, "x", 8000, "stream", 1, 1, "none", [], FULL_CONFIG)), 8000, 0
    yield (
        "hello_long",
        Packet(m.Hello(3, "c" * 64, 192000, "stream", 3000, 250, "none", [f"lane_{k}" for k in range(256)], CONFIG)),
        192000,
        256,
    )
    yield "configure", Packet(m.Configure(3, FULL_CONFIG)), 48000, 0
    yield "configure_neutral", Packet(m.Configure(0, m.make_config())), 48000, 0
    yield (
        "configure_long_prompt",
        Packet(m.Configure(2**31 - 1, m.make_config("p" * 4096, prompt_b="q" * 4096, loras=["00" * 32] * 4, bpm=20))),
        48000,
        0,
    )
    yield "begin", Packet(m.Begin(1, "stream", 0, 0, 0, True)), 48000, 0
    yield "begin_loop", Packet(m.Begin(2, "loop", 96_000, 50, 50, False)), 48000, 0
    yield "begin_commit", Packet(m.Begin(3, "commit", -1920, -1, 300, True)), 48000, 0
    yield "begin_negative", Packet(m.Begin(2**31 - 1, "stream", -(2**53), -200000, 5_000_000_000, False)), 44100, 0
    yield "feed", Packet(m.Feed(1, -3, 2), _ramp(2, 2 * 320), _ramp(2, 3)), 8000, 3
    yield "feed_no_lanes", Packet(m.Feed(200, 70000, 1), _ramp(2, 320), _ramp(1, 0)), 8000, 0
    yield "feed_48k", Packet(m.Feed(1, 0, 1), _ramp(2, 1920), _ramp(1, 2)), 48000, 2
    yield "end", Packet(m.End(1, 175)), 48000, 0
    yield "drop", Packet(m.Drop(0)), 48000, 0
    yield "ping", Packet(m.Ping(0, 0, 0, 0)), 48000, 0
    yield "ping_wanted", Packet(m.Ping(2**31 - 1, 7, -129, 2**53)), 48000, 0
    yield "edit", Packet(m.Edit(2, 12, 3), edits=_edits()), 48000, 2
    yield "edit_last_revision", Packet(m.Edit(2**31 - 1, 2**31 - 1, 1), edits=_edits()[:1]), 48000, 1
    yield "reference", Packet(m.Reference("5f" * 32, 44100, 1_000_000, 65_536, 5), _ramp(2, 5)), 48000, 0
    yield "reference_whole", Packet(m.Reference("00" * 32, 192000, 1, 0, 1), _ramp(2, 1)), 48000, 0
    yield "resend", Packet(m.Resend()), 48000, 0
    yield "bye", Packet(m.Bye()), 48000, 0
    yield "welcome", Packet(WELCOME), 48000, 0
    yield (
        "welcome_bare",
        Packet(
            m.Welcome(3, "00" * 16, 1, "zstd", "s", "c", "00" * 32, "b", [], [], 3000, 6000, 50, 256, 2**24, [], [])
        ),
        48000,
        0,
    )
    yield "configured", Packet(m.Configured(65536)), 48000, 0
    yield "edited", Packet(m.Edited(2, 12)), 48000, 0
    yield "referenced", Packet(m.Referenced("5f" * 32)), 48000, 0
    yield "window", Packet(m.Window(1, 0, 30, 2), _ramp(2, 2 * 1764)), 44100, 0
    yield "window_take", Packet(m.Window(2, 2**31 - 1, -30, 1), _ramp(2, 320)), 8000, 0
    yield "progress", Packet(m.Progress(1, -20, 3, 8)), 48000, 0
    yield "pong", Packet(m.Pong(0, [], [], 0.0, 0.0)), 48000, 0
    yield "pong_negative", Packet(m.Pong(2**31 - 1, [1, 70_000], [-32_769, 2**40], 12.375, 1.5)), 48000, 0
    yield "redirect", Packet(m.Redirect("tcp://10.0.0.7:47810", "".join(chr(33 + 2 * k) for k in range(40)))), 48000, 0
    yield "redirect_no_key", Packet(m.Redirect("tcp://127.0.0.1:5", "")), 48000, 0
    yield "closing", Packet(m.Closing("the engine is loaded anew")), 48000, 0
    yield "status", Packet(m.Status()), 48000, 0
    yield "state", Packet(m.State('{"kind":"gateway","server":"demon-bridge \u266a","engines":[]}')), 48000, 0
    yield "error", Packet(m.Error("E_FEED_GAP", "frame 12 came where 10 was expected", 4)), 48000, 0
    yield from unpacked_messages()


def _edits() -> Floats:
    return np.array([[0, 0, 25, 0.5], [1, 16_777_214, 16_777_215, 1.25], [0, 3, 4, -1]], dtype=np.float32)


def invalid_messages() -> Iterator[tuple[str, list[bytes], str, int, int]]:
    """(name, parts, error code, rate, number of lanes)"""

    def header(**fields: object) -> bytes:
        return msgspec.msgpack.encode(fields)

    def changed(message: m.Message, **fields: object) -> bytes:
        return header(**(msgspec.to_builtins(message) | fields))

    def configure(**fields: object) -> list[bytes]:
        return [header(type="configure", revision=1, config=msgspec.to_builtins(m.make_config()) | fields)]

    feed = encode(Packet(m.Feed(1, 0, 1), _ramp(2, 320), _ramp(1, 2)))
    edit = encode(Packet(m.Edit(1, 1, 3), edits=_edits()))
    reference = encode(Packet(m.Reference("5f" * 32, 48000, 10, 5, 5), _ramp(2, 5)))

    def piece(**fields: object) -> list[bytes]:
        return [header(**(msgspec.msgpack.decode(reference[0]) | fields)), reference[1]]

    hello = m.Hello(3, "x", 48000, "stream", 1, 1, "none", ["a"], m.make_config())
    not_finite = _ramp(2, 320)
    not_finite[1, 7] = np.nan
    infinite = _ramp(1, 2)
    infinite[0, 1] = np.inf
    nan_edits = _edits()
    nan_edits[2, 3] = np.nan
    nan_reference = _ramp(2, 5)
    nan_reference[0, 0] = np.nan
    yield "bad_empty_part", [b""], "E_MALFORMED", 48000, 0
    yield "bad_not_msgpack", [b"\xc1\xff\x00"], "E_MALFORMED", 48000, 0
    yield "bad_truncated_header", [feed[0][:-2], *feed[1:]], "E_MALFORMED", 8000, 2
    yield "bad_trailing_bytes", [feed[0] + b"\x00", *feed[1:]], "E_MALFORMED", 8000, 2
    yield "bad_array_header", [msgspec.msgpack.encode([1, 2])], "E_MALFORMED", 48000, 0
    yield "bad_no_type", [header(epoch=1)], "E_MALFORMED", 48000, 0
    yield "bad_unknown_type", [header(type="shout", epoch=1)], "E_UNKNOWN_MESSAGE", 48000, 0
    yield "bad_missing_field", [header(type="ping", number=1, epoch=1)], "E_MALFORMED", 48000, 0
    yield "bad_wrong_type", [header(type="ping", number=1, epoch="1", wanted=0, received=0)], "E_MALFORMED", 48000, 0
    yield "bad_float_for_int", [header(type="ping", number=1, epoch=1.0, wanted=0, received=0)], "E_MALFORMED", 48000, 0
    yield "bad_bool_for_int", [header(type="ping", number=1, epoch=True, wanted=0, received=0)], "E_MALFORMED", 48000, 0
    yield "bad_negative_epoch", [header(type="ping", number=1, epoch=-1, wanted=0, received=0)], "E_FIELD", 48000, 0
    yield "bad_huge_int", [header(type="ping", number=1, epoch=2**64 - 1, wanted=0, received=0)], "E_FIELD", 48000, 0
    yield "bad_position", [header(type="end", epoch=1, frame=2**53 + 1)], "E_FIELD", 48000, 0
    yield "bad_count", [header(type="feed", epoch=1, frame=0, count=65), *feed[1:]], "E_FIELD", 8000, 2
    yield "bad_version", [header(type="hello", protocol=4, greeting="hi")], "E_PROTOCOL_VERSION", 48000, 0
    yield "bad_old_version", [header(type="hello", protocol=2, latency=150)], "E_PROTOCOL_VERSION", 48000, 0
    yield "bad_long_prompt", configure(prompt="p" * 4097), "E_FIELD", 48000, 0
    yield "bad_long_prompt_b", configure(prompt_b="p" * 4097), "E_FIELD", 48000, 0
    yield "bad_solver", configure(solver="heun"), "E_FIELD", 48000, 0
    yield "bad_lora_hash", configure(loras=["", "AB" * 32]), "E_FIELD", 48000, 0
    yield "bad_many_loras", configure(loras=[""] * 5), "E_FIELD", 48000, 0
    yield "bad_lora_type", configure(loras=[1]), "E_MALFORMED", 48000, 0
    yield "bad_timbre", configure(timbre="5f" * 31), "E_FIELD", 48000, 0
    yield "bad_structure", configure(structure="../../secret"), "E_FIELD", 48000, 0
    yield "bad_hash_newline", configure(structure="5f" * 32 + "\n"), "E_FIELD", 48000, 0
    yield "bad_rounds", configure(feedback_rounds=0), "E_FIELD", 48000, 0
    yield "bad_slow_bpm", configure(bpm=19), "E_FIELD", 48000, 0
    yield "bad_fast_bpm", configure(bpm=401), "E_FIELD", 48000, 0
    yield "bad_meter", configure(meter=17), "E_FIELD", 48000, 0
    yield "bad_repeated_lane", [changed(hello, lanes=["a", "a"])], "E_FIELD", 48000, 0
    yield "bad_mode", [changed(hello, mode="commit")], "E_FIELD", 48000, 0
    yield "bad_latency", [changed(hello, latency=3001)], "E_FIELD", 48000, 0
    yield "bad_kind", [changed(m.Begin(1, "loop", 0, 0, 0, False), kind="clip")], "E_FIELD", 48000, 0
    yield "bad_short_payload", [feed[0], feed[1][:-4], feed[2]], "E_PAYLOAD_SIZE", 8000, 2
    yield "bad_long_payload", [feed[0], feed[1], feed[2] + bytes(4)], "E_PAYLOAD_SIZE", 8000, 2
    yield "bad_missing_payload", feed[:2], "E_MALFORMED", 8000, 2
    yield "bad_extra_part", [*encode(Packet(m.Bye())), b"x"], "E_MALFORMED", 48000, 0
    yield "bad_nan_audio", encode(Packet(m.Feed(1, 0, 1), not_finite, _ramp(1, 2))), "E_NOT_FINITE", 8000, 2
    yield "bad_infinite_lane", encode(Packet(m.Feed(1, 0, 1), _ramp(2, 320), infinite)), "E_NOT_FINITE", 8000, 2
    yield "bad_no_edits", [header(type="edit", epoch=1, revision=1, count=0), b""], "E_FIELD", 48000, 2
    yield "bad_many_edits", [header(type="edit", epoch=1, revision=1, count=65_537), edit[1]], "E_FIELD", 48000, 2
    yield "bad_short_edits", [edit[0], edit[1][:-16]], "E_PAYLOAD_SIZE", 48000, 2
    yield "bad_missing_edits", edit[:1], "E_MALFORMED", 48000, 2
    yield "bad_nan_edit", encode(Packet(m.Edit(1, 1, 3), edits=nan_edits)), "E_NOT_FINITE", 48000, 2
    yield "bad_reference_hash", piece(hash="5F" * 32), "E_FIELD", 48000, 0
    yield "bad_reference_span", piece(total=9), "E_FIELD", 48000, 0
    yield "bad_reference_total", piece(total=11_520_001), "E_FIELD", 48000, 0
    yield "bad_reference_count", [piece(count=0)[0], b""], "E_FIELD", 48000, 0
    yield "bad_reference_size", [reference[0], reference[1][:-4]], "E_PAYLOAD_SIZE", 48000, 0
    yield (
        "bad_nan_reference",
        encode(Packet(m.Reference("5f" * 32, 48000, 10, 5, 5), nan_reference)),
        "E_NOT_FINITE",
        48000,
        0,
    )
    yield "bad_hash", [changed(WELCOME, checkpoint_hash="XY" * 32)], "E_FIELD", 48000, 0
    yield "bad_cost", [changed(WELCOME, costs=["free", "free", "dear"])], "E_FIELD", 48000, 0
    yield "bad_costs", [changed(WELCOME, costs=["free"])], "E_FIELD", 48000, 0
    yield "bad_lora_names", [changed(WELCOME, lora_names=["choir", "lofi"])], "E_FIELD", 48000, 0
    yield "bad_minimum_latency", [changed(WELCOME, minimum_latency=0)], "E_FIELD", 48000, 0
    yield "bad_take", [changed(m.Window(1, 0, 0, 1), take=-1), bytes(2 * 320 * 4)], "E_FIELD", 8000, 0
    yield "bad_negative_ticks", [changed(m.Pong(1, [1], [0], 0.0, 0.0), ticks=-1.0)], "E_FIELD", 48000, 0
    yield "bad_nan_ticks", [changed(m.Pong(1, [1], [0], 0.0, 0.0), ticks=float("nan"))], "E_FIELD", 48000, 0
    yield "bad_text_generations", [changed(m.Pong(1, [1], [0], 0.0, 0.0), generations="fast")], "E_MALFORMED", 48000, 0
    yield "bad_pong_lengths", [changed(m.Pong(1, [1], [0], 0.0, 0.0), expected=[])], "E_FIELD", 48000, 0
    yield "bad_pong_epochs", [changed(m.Pong(1, [1], [0], 0.0, 0.0), epochs=[0])], "E_FIELD", 48000, 0
    yield "bad_pong_expected", [changed(m.Pong(1, [1], [0], 0.0, 0.0), expected=["0"])], "E_MALFORMED", 48000, 0
    yield (
        "bad_pong_many",
        [changed(m.Pong(1, [], [], 0.0, 0.0), epochs=list(range(1, 66)), expected=[0] * 65)],
        "E_FIELD",
        48000,
        0,
    )
    yield "bad_ticket", [changed(WELCOME, ticket="0F" * 16)], "E_FIELD", 48000, 0
    yield "bad_credit", [changed(hello, credit=0)], "E_FIELD", 48000, 0
    yield "bad_packing", [changed(hello, packing="gzip")], "E_FIELD", 48000, 0
    yield (
        "bad_feed_packing",
        [header(type="feed", epoch=1, frame=0, count=1, packing="lz4"), *feed[1:]],
        "E_FIELD",
        8000,
        2,
    )
    yield "bad_redirect_key", [header(type="redirect", endpoint="tcp://x:1", key="short")], "E_FIELD", 48000, 0
    yield "bad_report", [header(type="state", report="{")], "E_FIELD", 48000, 0
    yield "bad_redirect_endpoint", [header(type="redirect", endpoint="", key="")], "E_FIELD", 48000, 0
    yield from badly_packed_messages()


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
    for name, other, parts, rate, lanes in packed_messages():
        file = FOLDER / f"{name}.bin"
        if "library" not in name or not file.exists():
            file.write_bytes(pack_parts(parts))
        index.append(f"{name}.bin packed {other}.bin {rate} {lanes}")
    for name, parts, code, rate, lanes in invalid_messages():
        (FOLDER / f"{name}.bin").write_bytes(pack_parts(parts))
        index.append(f"{name}.bin invalid {code} {rate} {lanes}")
    (FOLDER / "index.txt").write_text("\n".join(index) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
