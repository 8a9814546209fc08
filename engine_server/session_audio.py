# SPDX-License-Identifier: Apache-2.0
"""The part of a session between audio and latents: encode, hear the structure, decode."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import numpy as np
import soxr
import torch

from engine_server.audio_info import AudioInfo, audio_info
from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.model.aside import Arriving
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.codec import Codec, describe_peak
from engine_server.model.timbre import TimbreReference, timbre_indices
from engine_server.model.windows import decode_window, encode_full, stream_window
from engine_server.types import Audio, Latent, PreparedSource
from shared_protocol.timebase import FRAMES_PER_SECOND, frame_of_sample, frames_to_cover

log = logging.getLogger(__name__)


class Repaint(TypedDict):
    """Arguments of `Session.generate`, made by `SessionAudio.repaint`."""

    context_latent: Latent
    """The source's latents, with silence where it is to be made."""
    chunk_mask: torch.Tensor
    """`[T]`: 1 is to be made, 0 is kept."""


class AudioToCome:
    """Audio that is being decoded: on a GPU beside what is computed next, on the CPU it is there at once. One thread."""

    def __init__(self, samples: Arriving, sample_rate: int, start_sample: int) -> None:
        self._samples = samples
        self._sample_rate = sample_rate
        self._start_sample = start_sample

    def is_ready(self) -> bool:
        """Whether `result` need not wait."""
        return self._samples.is_here()

    def result(self) -> Audio:
        """The audio; waits for it."""
        return Audio(self._samples.wait(), self._sample_rate, self._start_sample)


class SessionAudio:
    """Encodes and decodes with a codec, and sees structure as a checkpoint does. One thread at a time.

    vae_window: seconds that `decode` covers, 0 for all.
    """

    def __init__(self, checkpoint: Checkpoint, codec: Codec, vae_window: float) -> None:
        self.checkpoint = checkpoint
        self._codec = codec
        self._vae_window = vae_window

    @property
    def sample_rate(self) -> int:
        """The model's rate in Hz; audio of another is resampled."""
        return self.checkpoint.codec.sample_rate

    def encode_audio(self, audio: Audio, *, seed: int | None = None) -> Latent:
        """Latents of audio: the posterior's mean, or with a seed a sample of it."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return Latent(self._encoded(self._at_model_rate(audio).waveform, generator))

    def extract_hints(self, latent: Latent) -> Latent:
        """The structure of latents, as the decoder takes it: what the 5 Hz codes say, or the latents themselves."""
        return Latent(self.checkpoint.structure.hints(latent.frames), latent.origin_frame)

    def blend_hints(self, hints: Latent, other: Latent, amount: CurveLike) -> Latent:
        """Structure moved towards another by a number or a curve in [0, 1]; the other is cut, or prolonged by silence, to fit.

        A curve of another length is stretched. Against `empty_latent` this weakens structure.
        """
        curve = canonical_curve(amount, len(hints), name="amount", resample=True)
        return Latent(self.checkpoint.structure.blend(hints.frames, other.frames, curve), hints.origin_frame)

    def prepare_source(self, audio: Audio) -> PreparedSource:
        """Latents and structure of a piece of any length, at any rate."""
        at_rate = self._at_model_rate(audio)
        latent = self.encode_audio(at_rate)
        return PreparedSource(latent, self.extract_hints(latent), at_rate.waveform.shape[1])

    def repaint(self, source: PreparedSource, spans_s: Sequence[tuple[float, float]]) -> Repaint:
        """What `generate` takes to make the spans `[start, stop)` of a source anew, in seconds, and to keep the rest.

        A span is rounded to samples, then outwards to whole frames: every frame that it touches is made. Raises ValueError for a
        span outside the source, DemonError `E_FIELD` for an empty one.
        """
        spans = [self._frames_of(*span, frames=len(source)) for span in spans_s]
        context = self.checkpoint.structure.repaint_context(source.latent.frames, spans)
        latent, mask = context.chunk(2, dim=-1)
        return Repaint(context_latent=Latent(latent, source.latent.origin_frame), chunk_mask=mask[:, 0])

    def timbre_reference(self, audio: Audio, strength: float = 1.0) -> TimbreReference:
        """A clip as a timbre reference: three pieces of 10 s of it, as the model was trained with."""
        waveform = self._at_model_rate(audio).waveform
        heard = waveform[:, timbre_indices(waveform.shape[1], self.sample_rate)]
        return TimbreReference(self._encoded(heard), strength)

    def audio_info(self, audio: Audio) -> AudioInfo:
        """Tempo, key and length, estimated as `engine_server.audio_info` does; all of them may be told to `encode_text`."""
        return audio_info(audio)

    def empty_latent(self, duration: float = 60.0) -> Latent:
        """The latents of silence. Raises ValueError for no length."""
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"duration is {duration}; more than 0 s are expected")
        return Latent(self.checkpoint.structure.silence(math.ceil(duration * FRAMES_PER_SECOND)))

    def decode(self, latent: Latent, *, t_start: float = 0.0, cyclic: bool = False) -> Audio:
        """Audio of a latent: the session's `vae_window` from `t_start` seconds of it, or all of it if there is no window.

        cyclic: the latent is a loop, and a window may reach over its end. The window's bits equal the whole's to rounding.
        """
        if self._vae_window == 0:
            return self.decode_full(latent, cyclic=cyclic)
        return self.begin_decode(latent, t_start=t_start, cyclic=cyclic).result()

    def begin_decode(self, latent: Latent, *, t_start: float = 0.0, cyclic: bool = False) -> AudioToCome:
        """`decode` without waiting for a GPU: tick meanwhile. Nobody may write to the latent before the audio is there."""
        first, count = 0, len(latent)
        if self._vae_window:
            span = stream_window(t_start, self._vae_window, count, self.sample_rate, cyclic=cyclic).span
            first, count = span.first, len(span)
        return self._begin_decode(latent, first, count, cyclic=cyclic)

    def decode_window(self, latent: Latent, first_frame: int, frames: int, *, cyclic: bool = False) -> Audio:
        """Audio of some frames of a latent, equal to that part of its whole."""
        return self._begin_decode(latent, first_frame, frames, cyclic=cyclic).result()

    def decode_full(self, latent: Latent, *, cyclic: bool = False) -> Audio:
        """Audio of a whole latent. Samples above full scale are kept, and said in the log."""
        audio = self._begin_decode(latent, 0, len(latent), cyclic=cyclic).result()
        if audio.peak > 1.0:
            log.warning("the audio %s", describe_peak(audio.peak))
        return audio

    def _frames_of(self, start_s: float, stop_s: float, *, frames: int) -> tuple[int, int]:
        duration_s = frames / FRAMES_PER_SECOND
        if not 0.0 <= start_s <= stop_s <= duration_s:
            raise ValueError(
                f"spans_s holds ({start_s}, {stop_s}); 0 <= start < stop <= {duration_s} s of the source are expected"
            )
        # Through samples, because the product of seconds and 25 may miss a whole frame by its last bit.
        first, stop = (round(seconds * self.sample_rate) for seconds in (start_s, stop_s))
        return frame_of_sample(first, self.sample_rate), frames_to_cover(stop, self.sample_rate)

    def _encoded(self, waveform: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return encode_full(self._codec, waveform, generator=generator, device=self.checkpoint.placement.device)

    def _begin_decode(self, latent: Latent, first_frame: int, frames: int, *, cyclic: bool) -> AudioToCome:
        """All decodes go this way, so that those of one codec are in order."""
        decode = partial(
            decode_window,
            self._codec,
            first=first_frame,
            count=frames,
            position=latent.origin_frame,
            cyclic=cyclic,
            silence=self.checkpoint.silence,
        )
        start = (latent.origin_frame + first_frame) * self._codec.hop
        return AudioToCome(self.checkpoint.aside.run(decode, latent.frames), self.sample_rate, start)

    def _at_model_rate(self, audio: Audio) -> Audio:
        if audio.sample_rate == self.sample_rate:
            return audio
        samples = soxr.resample(
            audio.waveform.T.contiguous().numpy(), audio.sample_rate, self.sample_rate, quality="VHQ"
        )
        return Audio(torch.from_numpy(np.ascontiguousarray(samples.T, dtype=np.float32)), self.sample_rate)
