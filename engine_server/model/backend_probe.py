# SPDX-License-Identifier: Apache-2.0
"""A short try of a decoder: whether it may stand for another one, and how long a forward of the tracks' form takes."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

import torch

from engine_server.diffusion.decoder import Decoder
from engine_server.model.backend_record import Measured
from engine_server.model.row_bits import Rows, dependent_rows
from engine_server.model.static_decoder import StaticDecoder
from engine_server.model.track_sizes import TrackSizes
from shared_protocol.errors import DemonError

log = logging.getLogger("demon.engine")
FORWARDS = 5


class UnfitError(Exception):
    """A decoder that computes what no track should hear; the text says what."""


def probe(backend: str, make: Callable[[], Decoder], sizes: TrackSizes, device: torch.device) -> Measured:
    """Make a decoder, look whether its rows keep their bits, and take the time of a few forwards. It is gone afterwards.

    Whatever fails is a reason not to take it, and raises nothing. One whose rows depend on one another is not taken however fast
    it is: a bounce would not have the same bits every time.
    """
    try:
        ms = 1000 * _seconds(make(), sizes, device)
    except Exception as error:  # also what TensorRT, CUDA or a compiler raises
        trouble = in_words(error)
        log.warning("%s is not taken: %s", backend, trouble)
        return Measured(backend, None, trouble)
    finally:
        release(device)
    return Measured(backend, ms)


@torch.no_grad()
def try_once(decoder: Decoder, sizes: TrackSizes, device: torch.device) -> None:
    """Meet what tracks will: all compiling, and the memory of a forward. Raises `UnfitError`, and what the decoder raises."""
    if isinstance(decoder, StaticDecoder):
        decoder.warm_up(sizes.forms)
    if not bool(Rows.draw(sizes, device).run(decoder).isfinite().all()):
        raise UnfitError("its velocities are not finite")


def in_words(error: Exception) -> str:
    """A failure in a line."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory ({text.split('. ', 1)[0]})"
    return text if isinstance(error, DemonError | UnfitError) else f"{type(error).__name__}: {text}"


def release(device: torch.device) -> None:
    """Give back the memory of what is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def _seconds(decoder: Decoder, sizes: TrackSizes, device: torch.device) -> float:
    """Of the fastest forward: what else the machine did is no property of a decoder."""
    try_once(decoder, sizes, device)
    if depends_on := dependent_rows(decoder, sizes, device):
        raise UnfitError(f"a row's bits depend on {' and on '.join(depends_on)}")
    rows = Rows.draw(sizes, device)
    condition, took = rows.encoded(decoder), []
    for _ in range(FORWARDS):
        began = time.perf_counter()
        decoder(rows.x, rows.t, rows.context, condition).flatten()[0].item()  # which waits for a GPU
        took.append(time.perf_counter() - began)
    return min(took)
