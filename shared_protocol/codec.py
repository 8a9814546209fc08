# SPDX-License-Identifier: Apache-2.0
"""Headers and payloads to message parts and back (`SPEC.md`, section 2). Nothing else touches bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared_protocol import PROTOCOL_VERSION
from shared_protocol import messages as m
from shared_protocol.errors import DemonError
from shared_protocol.packing import pack, unpack
from shared_protocol.timebase import samples_per_frame

Floats = NDArray[np.float32]
CHANNELS = 2
MAX_HEADER_BYTES = 65_536
MAX_ENTRIES = 4096
"""Entries of one list or map of a header."""
MAX_DEPTH = 8
"""Lists and maps in one another; the header itself is the first."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(m.FROM_CLIENT | m.FROM_SERVER)
_KNOWN_TYPES = frozenset(cls.__name__.lower() for cls in m.Message.__subclasses__())
_RANGE_WORDS = (
    "Expected `int` >=", "Expected `int` <=", "Expected `float` >=", "Expected `float` <=",
    "Invalid enum value", "matching regex", "out of range",
)  # fmt: skip
_NOT_MSGPACK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MAP_HEADS = frozenset(bytes([head]) for head in (*range(0x80, 0x90), 0xDE, 0xDF))
_CONTAINER_HEADS = _MAP_HEADS | {bytes([head]) for head in (*range(0x90, 0xA0), 0xDC, 0xDD)}
_PAYLOADS = {m.Feed: 2, m.Window: 1, m.Edit: 1, m.Reference: 1}
EDIT_COLUMNS = 4
"""Numbers of an edit: lane column, first frame, frame after the last, value."""


class Packet(NamedTuple):
    """A header and its payloads.

    audio: `[2, samples]` of `Feed`, `Window` and `Reference`. lanes: `[frames, lanes]`, of `Feed`. edits: `[count, 4]` of `Edit`.
    """

    header: m.Message
    audio: Floats | None = None
    lanes: Floats | None = None
    edits: Floats | None = None


def encode(packet: Packet) -> list[bytes]:
    """The parts of a message, in canonical form. Payload arrays must be float32; they are copied.

    Audio whose header says `zstd` is packed, or sent as it is, as `none`, where that is no longer. Packed bytes have no canonical
    form: another version of the library may give others.
    """
    header, audio = packet.header, None if packet.audio is None else _bytes_of(packet.audio)
    if audio is not None and isinstance(header, m.PACKABLE) and header.packing == "zstd":
        if (packed := pack(audio)) is None:
            header = msgspec.structs.replace(header, packing="none")
        else:
            audio = packed
    payloads = [audio, *(None if values is None else _bytes_of(values) for values in (packet.lanes, packet.edits))]
    return [_ENCODER.encode(header), *(payload for payload in payloads if payload is not None)]


def _bytes_of(payload: Floats) -> bytes:
    return payload.astype("<f4", order="C", copy=False).tobytes()


def decode(parts: Sequence[bytes], *, rate: int, lane_count: int) -> Packet:
    """Check and decode a message; `rate` and `lane_count` are those of the track's `hello`.

    Raises `DemonError` with `E_MALFORMED`, `E_UNKNOWN_MESSAGE`, `E_FIELD`, `E_PAYLOAD_SIZE` or `E_NOT_FINITE`.
    """
    if not parts:
        raise DemonError("E_MALFORMED", "a message has at least one part")
    header = _decode_header(parts[0])
    if len(parts) != 1 + _PAYLOADS.get(type(header), 0):
        if isinstance(header, m.Hello) and header.protocol != PROTOCOL_VERSION:
            raise DemonError("E_PROTOCOL_VERSION", version_mismatch(header.protocol))
        raise DemonError("E_MALFORMED", f"{_type_of(header)} does not have {len(parts)} parts")
    if isinstance(header, m.Feed):
        samples = header.count * samples_per_frame(rate)
        return Packet(
            header,
            _decode_audio(parts[1], samples, header.packing),
            _decode_floats(parts[2], (header.count, lane_count), "lanes"),
        )
    if isinstance(header, m.Window):
        samples = header.count * samples_per_frame(rate)
        return Packet(header, _decode_audio(parts[1], samples, header.packing))
    if isinstance(header, m.Reference):
        return Packet(header, _decode_audio(parts[1], header.count, header.packing))
    if isinstance(header, m.Edit):
        return Packet(header, edits=_decode_floats(parts[1], (header.count, EDIT_COLUMNS), "edits"))
    return Packet(header)


def _type_of(header: m.Message) -> str:
    return type(header).__name__.lower()


def _decode_header(data: bytes) -> m.Message:
    if len(data) > MAX_HEADER_BYTES:
        raise DemonError("E_MALFORMED", f"the header has {len(data)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    try:
        header: m.Message = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise _explain(data, error) from error
    except _NOT_MSGPACK as error:
        raise DemonError("E_MALFORMED", f"the header is not msgpack: {error}"[:1024]) from error
    if _ENCODER.encode(header) != data:  # what is in canonical form needs no second look
        _entries(data)
    return header


def _entries(data: bytes | msgspec.Raw, depth: int = 1) -> dict[str, msgspec.Raw]:
    """The entries of a map, none if it is an array, after a look at all that is inside. Raises `E_MALFORMED` for what msgspec
    lets pass: keys that are repeated or no text, and unknown values that would be large or deep."""
    head = bytes(memoryview(data)[:5])
    size, is_map = _size(head), head[:1] in _MAP_HEADS
    try:
        if depth > MAX_DEPTH or size > MAX_ENTRIES:
            raise DemonError(
                "E_MALFORMED", f"more than {MAX_ENTRIES} entries in one, or {MAX_DEPTH} lists and maps in one another"
            )
        entries = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw]) if is_map else {}
        values = entries.values() if is_map else msgspec.msgpack.decode(data, type=list[msgspec.Raw])
    except _NOT_MSGPACK as error:
        raise DemonError("E_MALFORMED", f"the header is not a map with text keys: {error}"[:1024]) from error
    if is_map and len(entries) != size:
        raise DemonError("E_MALFORMED", "a key is there twice")
    for value in values:
        if bytes(memoryview(value)[:1]) in _CONTAINER_HEADS:
            _entries(value, depth + 1)
    return entries


def _size(head: bytes) -> int:
    """The entries that the first bytes of a list or map announce."""
    if head[0] in (0xDC, 0xDE):
        return int.from_bytes(head[1:3], "big")
    return int.from_bytes(head[1:5], "big") if head[0] in (0xDD, 0xDF) else head[0] & 0x0F


def _explain(data: bytes, error: msgspec.ValidationError) -> DemonError:
    """Tell an unknown type, a field out of range and a malformed header apart."""
    if data[:1] not in _MAP_HEADS:
        return DemonError("E_MALFORMED", "the header is not a map")
    entries = _entries(data)
    name, theirs = _value(entries, "type", str), _value(entries, "protocol", int)
    if name is not None and name not in _KNOWN_TYPES:
        return DemonError("E_UNKNOWN_MESSAGE", f"no message has the type {name[:32]!r}")
    if name == "hello" and theirs not in (None, PROTOCOL_VERSION):
        return DemonError("E_PROTOCOL_VERSION", version_mismatch(theirs))  # its other fields may have changed
    if isinstance(error.__cause__, m.FieldError) or _is_range_error(str(error)):
        return DemonError("E_FIELD", str(error)[:1024])
    return DemonError("E_MALFORMED", str(error)[:1024])


def _value(entries: dict[str, msgspec.Raw], key: str, kind: type) -> Any:
    """The value under a key, or None if it is not there or of another kind."""
    try:
        return msgspec.msgpack.decode(entries[key], type=kind)
    except (KeyError, *_NOT_MSGPACK):
        return None


def version_mismatch(theirs: int) -> str:
    """What to tell the user when the two ends differ."""
    return f"this end speaks protocol {PROTOCOL_VERSION}, the other {theirs}: update the older one"


def _is_range_error(text: str) -> bool:
    """msgspec has one exception for a wrong type and a wrong value; only its text tells them apart."""
    return any(word in text for word in _RANGE_WORDS)


def _decode_audio(data: bytes, samples: int, packing: m.Packing) -> Floats:
    if packing == "zstd":
        data = unpack(data, CHANNELS * samples * 4)
    return _decode_floats(data, (CHANNELS, samples), "audio")


def _decode_floats(data: bytes, shape: tuple[int, int], name: str) -> Floats:
    expected = shape[0] * shape[1] * 4
    if len(data) != expected:
        raise DemonError("E_PAYLOAD_SIZE", f"payload {name} has {len(data)} bytes; the header asks for {expected}")
    values = np.frombuffer(data, dtype="<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise DemonError("E_NOT_FINITE", f"payload {name} holds NaN or infinity")
    return values
