# SPDX-License-Identifier: Apache-2.0
"""Packed audio for the golden messages. Most frames are made by hand, so that their bytes depend on no library."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
import numpy as np

from shared_protocol import messages as m
from shared_protocol.codec import Floats, Packet, encode

_MAGIC = b"\x28\xb5\x2f\xfd"
_RATE, _SAMPLES = 8000, 2 * 320


def packed_messages() -> Iterator[tuple[str, str, list[bytes], int, int]]:
    """(name, name of the message that it unpacks to, parts, rate, number of lanes)

    Those whose name has `library` in it are kept as they are stored: a newer library may write other bytes.
    """
    yield "packed_by_hand", "window_music", _window(_frame(_planes(_music()))), _RATE, 0
    yield "packed_by_library", "window_music", encode(Packet(m.Window(3, 0, 5, 1, "zstd"), _music())), _RATE, 0
    yield "packed_blocks", "window_music", _window(_frame(_planes(_music()), block=100, size_bytes=8)), _RATE, 0
    yield "packed_window", "window_music", _window(_frame(_planes(_music()), window=10)), _RATE, 0
    yield "packed_silence", "window_silence", _window(_frame(b"\x00" * _SAMPLES * 4, is_run=True)), _RATE, 0
    feed = encode(Packet(m.Feed(3, 5, 1, "zstd"), _music(), _lanes()))
    yield "packed_feed_by_library", "feed_music", feed, _RATE, 2
    piece = encode(Packet(m.Reference("5f" * 32, 44100, 320, 0, 320, "zstd"), _music()))
    yield "packed_reference_by_library", "reference_music", piece, 48000, 0
    spelled = _header(msgspec.to_builtins(m.Window(3, 0, 5, 1)) | {"packing": "none"})
    yield "packing_none_spelled_out", "window_music", [spelled, _music().tobytes()], _RATE, 0


def unpacked_messages() -> Iterator[tuple[str, Packet, int, int]]:
    """What those unpack to, as `valid_messages`."""
    yield "window_music", Packet(m.Window(3, 0, 5, 1), _music()), _RATE, 0
    yield "window_silence", Packet(m.Window(3, 0, 5, 1), np.zeros((2, 320), np.float32)), _RATE, 0
    yield "feed_music", Packet(m.Feed(3, 5, 1), _music(), _lanes()), _RATE, 2
    yield "reference_music", Packet(m.Reference("5f" * 32, 44100, 320, 0, 320), _music()), 48000, 0


def badly_packed_messages() -> Iterator[tuple[str, list[bytes], str, int, int]]:
    """As `invalid_messages`."""
    planes = _planes(_music())
    good = _frame(planes)
    not_finite = _music()
    not_finite[1, 319] = -np.inf
    frames = {
        "empty": b"",
        "not_packed": _music().tobytes(),
        "truncated": good[:-1],
        "only_header": good[:9],
        "trailing": good + b"\x00",
        "twice": good + good,
        "and_skippable": good + _skippable(b"more"),
        "skippable": _skippable(planes),
        "no_size": _frame(planes, window=10, size_bytes=0),
        "short": _frame(planes[:-4]),
        "long": _frame(planes + bytes(4)),
        "states_less": _frame(planes, states=len(planes) - 4),
        "holds_less": _frame(planes[:-4], states=len(planes)),
        "holds_more": _frame(planes + bytes(4), states=len(planes)),
        "bomb": _frame(bytes(2**17), states=2**40, is_run=True, blocks=64, size_bytes=8),
        "hidden_bomb": _frame(bytes(2**17), states=len(planes), is_run=True, blocks=64),
        "wide_window": _frame(planes, window=25),
        "widest_window": _frame(planes, window=41),
        "dictionary": _frame(planes, dictionary=7),
        "reserved_bit": good[:4] + bytes([good[4] | 8]) + good[5:],
        "reserved_block": good[:9] + bytes([good[9] | 6]) + good[10:],
        "old_magic": b"\x27" + good[1:],
    }
    for name, frame in frames.items():
        yield f"bad_packed_{name}", _window(frame), "E_PAYLOAD_SIZE", _RATE, 0
    yield "bad_packed_infinity", _window(_frame(_planes(not_finite))), "E_NOT_FINITE", _RATE, 0
    feed = _header(msgspec.to_builtins(m.Feed(3, 5, 1, "zstd")))
    lanes = _frame(_planes(_lanes()))
    yield "bad_packed_lanes", [feed, good, lanes], "E_PAYLOAD_SIZE", _RATE, 2


def _frame(
    content: bytes,
    *,
    states: int | None = None,
    size_bytes: int = 4,
    window: int | None = None,
    dictionary: int | None = None,
    is_run: bool = False,
    block: int = 2**17,
    blocks: int = 1,
) -> bytes:
    """A zstd frame (RFC 8878) of blocks as they are, or of `blocks` times one run of a byte.

    window: exponent of the window that it asks for; without it the window is the content, as most libraries write it.
    """
    size_flag = {0: 0, 4: 2, 8: 3}[size_bytes]
    descriptor = size_flag << 6 | (window is None) << 5 | (3 if dictionary else 0)
    frame = _MAGIC + bytes([descriptor])
    if window is not None:
        frame += bytes([(window - 10) << 3])
    if dictionary:
        frame += struct.pack("<I", dictionary)
    frame += (len(content) if states is None else states).to_bytes(8, "little")[:size_bytes]
    if is_run:
        inside = [struct.pack("<I", len(content) << 3 | 2)[:3] + content[:1]] * blocks
    else:
        pieces = [content[at : at + block] for at in range(0, len(content), block)]
        inside = [struct.pack("<I", len(piece) << 3)[:3] + piece for piece in pieces]
    last = inside[-1]
    return frame + b"".join(inside[:-1]) + bytes([last[0] | 1]) + last[1:]


def _skippable(content: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(content)) + content


def _window(frame: bytes) -> list[bytes]:
    return [_header(msgspec.to_builtins(m.Window(3, 0, 5, 1, "zstd"))), frame]


def _header(fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def _planes(values: Floats) -> bytes:
    return values.astype("<f4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _lanes() -> Floats:
    return np.array([[0.25, -1.5]], dtype=np.float32)


def _music() -> Floats:
    """A tone of 24 bits, and values at which floats end; no function whose last bit differs between machines."""
    n = np.arange(_SAMPLES, dtype=np.int64)
    music = ((n * n * 8191 % 65_537 * 97 - 2**21) / 2**23).astype(np.float32).reshape(2, 320)
    ends = ["80000000", "00000000", "00000001", "80000001", "007fffff", "00800000", "7f7fffff", "ff7fffff", "3f800001"]
    music[0, : len(ends)] = np.array([int(bits, 16) for bits in ends], np.uint32).view(np.float32)
    return music
