# SPDX-License-Identifier: Apache-2.0
"""The way of finished latents to the host's audio: the one place where a track's results leave the device, a copy per window."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from engine_server.model.checkpoint import Checkpoint
from engine_server.model.windows import decode_window
from engine_server.tracks.resample import MODEL_RATE, resample_span
from shared_protocol.codec import Floats


def decode_audio(checkpoint: Checkpoint, latents: Tensor, *, position: int, rate: int) -> Floats:
    """Audio `[2, n]` at a host's rate of latents `[N, C]`, without the frames at both ends that decoder and resampler reach over.

    position: the frame of the timeline at which the latents begin. Values beyond 1 are kept. Waits for the device. Raises
    ValueError if the audio is not finite.
    """
    margin = checkpoint.codec.decoder_margin
    audio = decode_window(
        checkpoint.codec,
        latents,
        margin,
        len(latents) - 2 * margin,
        position=position,
        silence=checkpoint.silence,
    )
    heard = resample_span(audio.contiguous().cpu().numpy(), MODEL_RATE, rate)
    if not np.isfinite(heard).all():
        raise ValueError("the model's output is not finite")
    return heard
