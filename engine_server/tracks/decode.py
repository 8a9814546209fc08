# SPDX-License-Identifier: Apache-2.0
"""The way of finished latents to the host's audio: the one place where a track's results leave the device, a copy per window."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from engine_server.model.aside import Arriving
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import decode_window
from engine_server.tracks.resample import MODEL_RATE, resample_span
from shared_protocol.codec import Floats


class Decoding:
    """Audio that is being made: on the CPU it is there at once, on a GPU it is made beside the next tick. One thread."""

    def __init__(self, samples: Arriving, rate: int) -> None:
        self._samples = samples
        self._rate = rate

    def is_ready(self) -> bool:
        """Whether `result` need not wait for the device."""
        return self._samples.is_here()

    def result(self) -> Floats:
        """The audio `[2, n]` at the host's rate; values beyond 1 are kept. Raises ValueError if it is not finite."""
        heard = resample_span(self._samples.wait().numpy(), MODEL_RATE, self._rate)
        if not np.isfinite(heard).all():
            raise ValueError("the model's output is not finite")
        return heard


def begin_decode(checkpoint: Checkpoint, latents: Tensor, *, position: int, rate: int) -> Decoding:
    """Begin to make audio at a host's rate of latents `[N, C]`, but for the frames at both ends that decoder and resampler reach.

    position: the frame of the timeline at which the latents begin. Nobody may write to them any more. Does not wait for a GPU.
    """
    margin = checkpoint.codec.decoder_margin
    decode = partial(
        decode_window,
        checkpoint.codec,
        first=margin,
        count=len(latents) - 2 * margin,
        position=position,
        silence=checkpoint.silence,
    )
    return Decoding(checkpoint.aside.run(decode, latents), rate)
