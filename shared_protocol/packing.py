# SPDX-License-Identifier: Apache-2.0
"""Audio in fewer bytes and with every bit (`SPEC.md`, section 2, *Packed audio*). `codec` alone calls this."""

from __future__ import annotations

import numpy as np
import zstandard

from shared_protocol.errors import DemonError

LEVEL = 1
"""Level 3 takes about twice the time for 1 % less: docs/measurements.md."""
MAX_WINDOW_BYTES = 2**24
_MAGIC = b"\x28\xb5\x2f\xfd"
_WIDTH = 4


def pack(payload: bytes) -> bytes | None:
    """One zstd frame of a payload's bytes, sorted by significance; None if it would not be shorter."""
    planes = np.frombuffer(payload, np.uint8).reshape(-1, _WIDTH).T.tobytes()
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(planes)
    return packed if len(packed) < len(payload) else None


def unpack(packed: bytes, size: int) -> bytes:
    """The `size` bytes of a payload. Raises DemonError `E_PAYLOAD_SIZE` for all else, before anything of that size is held."""
    try:
        _check_frame(packed, size)
        # A frame with less or more inside than it states ends here too: both are an error of the library's.
        whole = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _fault(f"is not one zstd frame: {error}") from error
    planes = np.frombuffer(whole, np.uint8).reshape(_WIDTH, -1)
    samples = np.empty((planes.shape[1], _WIDTH), np.uint8)
    for k in range(_WIDTH):  # five times as fast as a transposed copy
        samples[:, k] = planes[k]
    return samples.tobytes()


def _check_frame(packed: bytes, size: int) -> None:
    frame = zstandard.get_frame_parameters(packed)
    if packed[: len(_MAGIC)] != _MAGIC:
        raise _fault("is not a zstd frame")  # a skippable one states a size too
    if frame.content_size != size:
        raise _fault(f"does not state the {size} bytes that the header asks for")
    if frame.dict_id or frame.window_size > MAX_WINDOW_BYTES:
        raise _fault(f"needs a dictionary, or a window of more than {MAX_WINDOW_BYTES} bytes")


def _fault(text: str) -> DemonError:
    return DemonError("E_PAYLOAD_SIZE", f"packed payload audio {text}"[:1024])
