# SPDX-License-Identifier: Apache-2.0
"""The Session API: a checkpoint, ready to encode, generate, stream and decode.

with Session() as session:
    source = session.prepare_source(audio)
    words = session.encode_text(tags="string ensemble")
    latent = session.generate(conditioning=words, source=source, denoise=0.7, seed=7)
    music = session.decode(latent)
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soxr
import torch

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.intake import Admission
from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.diffusion.rows import RingShape
from engine_server.model.backends import choose_backend
from engine_server.model.checkpoint import EMBEDDED, load_checkpoint
from engine_server.model.codec import describe_peak, with_backend
from engine_server.model.lora import linear_shapes
from engine_server.model.lora_library import LoraLibrary
from engine_server.model.prompts import Metas
from engine_server.model.timbre import TimbreReference, timbre_indices
from engine_server.model.windows import (
    Span,
    decode_full,
    decode_window,
    encode_full,
    sliding_windows,
    stitch_windows,
    stream_window,
)
from engine_server.modulation import Modulation
from engine_server.session_options import SessionOptions
from engine_server.stream import SharedControls, StreamHandle
from engine_server.types import Audio, Conditioning, Latent, PreparedSource
from shared_protocol.timebase import FRAMES_PER_SECOND

log = logging.getLogger(__name__)

LONGEST_WINDOW = 240 * FRAMES_PER_SECOND
"""Pieces up to this length are made in one window; longer ones in sliding windows of 60 s."""
SLIDING_WINDOW = 60 * FRAMES_PER_SECOND
SLIDING_OVERLAP = 4 * FRAMES_PER_SECOND
SLIDING_CROSSFADE = FRAMES_PER_SECOND
COMPILED_SPAN_S = 4.0
"""Length that a compiled codec decodes at once, where no `vae_window` asks for another."""


DEFAULT_DCW = DcwSettings()


class Session:
    """See the module. One thread at a time, but for LoRA strengths and the controls of streams.

    model: `embedded`, a folder, or `owner/name` of a hub. decoder_backend, vae_backend: auto, eager, compile or tensorrt.
    vae_window: seconds that a stream's decode covers, 0 for all. quantization: `int8` or None. device, dtype: see `placement`.

    Raises ValueError for options that make no sense together, before anything is loaded; DemonError for what cannot be loaded
    or run here.
    """

    frame_rate = FRAMES_PER_SECOND

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        decoder_backend: str = "eager",
        vae_backend: str = "eager",
        vae_window: float = 0.0,
        trt_engines: Mapping[str, str] | None = None,
        quantization: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.options = SessionOptions(decoder_backend, vae_backend, vae_window, dict(trt_engines or {}), quantization)
        checkpoint = load_checkpoint(
            model, device=device, dtype=dtype, backend=decoder_backend, quantization=quantization
        )
        self.checkpoint = checkpoint
        place = checkpoint.placement.device
        self.backend = choose_backend(decoder_backend, device=place)
        """The decoder's backend, with the reason in words."""
        log.info("decoder %s", self.backend.reason)
        self.loras = LoraLibrary(checkpoint.adapters, linear_shapes(checkpoint.transformer))
        span_s = vae_window + 2 * checkpoint.codec.decoder_margin / FRAMES_PER_SECOND if vae_window else COMPILED_SPAN_S
        self._codec = with_backend(
            checkpoint.codec,
            choose_backend(vae_backend, device=place).backend,
            fixed_span=math.ceil(span_s * FRAMES_PER_SECOND),
        )
        self._streams: weakref.WeakSet[StreamHandle] = weakref.WeakSet()
        self._applied: list[str] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all streams and take out all LoRAs. May be called again."""
        for stream in list(self._streams):
            stream.close()
        self.remove_loras()

    @property
    def sample_rate(self) -> int:
        """The model's rate in Hz; audio of another is resampled."""
        return self.checkpoint.codec.sample_rate

    def encode_audio(self, audio: Audio, *, seed: int | None = None) -> Latent:
        """Latents of audio: the posterior's mean, or with a seed a sample of it."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return Latent(encode_full(self._codec, self._at_model_rate(audio).waveform, generator=generator))

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

    def timbre_reference(self, audio: Audio, strength: float = 1.0) -> TimbreReference:
        """A clip as a timbre reference: three pieces of 10 s of it, as the model was trained with."""
        waveform = self._at_model_rate(audio).waveform
        heard = waveform[:, timbre_indices(waveform.shape[1], self.sample_rate)]
        return TimbreReference(encode_full(self._codec, heard), strength)

    def encode_text(
        self,
        *,
        tags: str = "",
        lyrics: str = "",
        task: str = "cover",
        instruction: str | None = None,
        timbre: Sequence[TimbreReference] = (),
        bpm: int | None = None,
        key: str | None = None,
        time_signature: int | None = None,
        duration: float | None = None,
        language: str = "en",
        tracks: Sequence[str] = (),
    ) -> Conditioning:
        """What to make, in words, and whose timbre it should have. What is not told is left open.

        Raises DemonError `E_TASK` or `E_FIELD`, naming what does not fit.
        """
        condition = self.checkpoint.conditioner.encode(
            tags,
            lyrics=lyrics,
            language=language,
            task=task,
            tracks=tracks,
            instruction=instruction,
            metas=Metas(bpm=bpm, key=key, meter=time_signature, duration_s=duration),
            timbre=timbre,
        )
        return Conditioning.of(condition)

    def null_conditioning(self, like: Conditioning) -> Conditioning:
        """The learned unconditional prompt, in the shape of another: what guidance moves away from."""
        return Conditioning.of(self.checkpoint.conditioner.null(like.first))

    def empty_latent(self, duration: float = 60.0) -> Latent:
        """The latents of silence. Raises ValueError for no length."""
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"duration is {duration}; more than 0 s are expected")
        return Latent(self.checkpoint.structure.silence(math.ceil(duration * FRAMES_PER_SECOND)))

    def generate(
        self,
        *,
        conditioning: Conditioning,
        source: PreparedSource | None = None,
        source_latent: Latent | None = None,
        context_latent: Latent | None = None,
        duration: float = 60.0,
        seed: int = 0,
        steps: int | None = None,
        shift: float | None = None,
        method: str = "ode",
        pipeline_depth: int = 1,
        **modulation: Any,
    ) -> Latent:
        """One finished generation.

        source: a prepared piece, or its parts: `source_latent` (what is transformed) and `context_latent` (the structure that the
        decoder sees). Without either, `duration` seconds are made from nothing. steps, shift: the checkpoint's own by default.
        modulation: fields of `Modulation`. Pieces beyond 240 s are made in sliding windows, `pipeline_depth` at a time.

        Raises ValueError naming the argument that does not fit.
        """
        if source is not None and (source_latent is not None or context_latent is not None):
            raise ValueError(
                "source is given, and so are parts of it; source_latent and context_latent are not expected"
            )
        latent = source_latent if source is None else source.latent
        structure = context_latent or (None if source is None else source.context_latent)
        if structure is None:
            structure = (
                self.empty_latent(duration)
                if latent is None
                else Latent(self.checkpoint.structure.silence(len(latent)))
            )
        piece = PreparedSource(latent or structure, structure, 0)
        handle = self.stream(
            source=piece,
            conditioning=conditioning,
            steps=steps,
            shift=shift,
            method=method,
            pipeline_depth=pipeline_depth,
            admission=Admission.QUEUE,
            warm="burst",
            has_source=latent is not None,
            seed=seed,
            **modulation,
        )
        try:
            handle.submit_windows()
            return self.stitch(handle.drain(), len(piece))
        finally:
            handle.close()

    def stream(
        self,
        *,
        source: PreparedSource,
        conditioning: Conditioning,
        steps: int | None = None,
        shift: float | None = None,
        method: str = "ode",
        seed: int = 0,
        pipeline_depth: int | None = None,
        dcw: DcwSettings | None = DEFAULT_DCW,
        admission: str = Admission.LIVE,
        warm: str = "even",
        has_source: bool = True,
        **modulation: Any,
    ) -> StreamHandle:
        """A stream of generations of a source, in flight `pipeline_depth` at a time (by default as many as steps).

        dcw: the wavelet correction that all share, None for none. admission, warm: see `StreamPipeline`. has_source: False to
        show the decoder the source's structure only. modulation: fields of `Modulation`, the base of every request.
        """
        steps = self.checkpoint.settings.steps if steps is None else steps
        shape = RingShape(
            depth=steps if pipeline_depth is None else pipeline_depth,
            frames=len(self.windows_of(len(source))[0]),
            channels=self._codec.latent_channels,
            tokens=self.checkpoint.settings.condition_tokens,
            width=self.checkpoint.condition_width,
        )
        pipeline = SharedControls(
            self.checkpoint.decoder,
            shape,
            admission=admission,
            warm=warm,
            dcw=dcw,
            batch=DEFAULT_BATCH,
            device=self.checkpoint.placement.device,
        )
        handle = StreamHandle(
            self,
            pipeline,
            source,
            conditioning,
            has_source=has_source,
            seed=seed,
            steps=steps,
            shift=self.checkpoint.settings.shift if shift is None else shift,
            method=method,
            **modulation,
        )
        self._streams.add(handle)
        handle.set_adapters(self._strengths())
        return handle

    def decode(self, latent: Latent, *, t_start: float = 0.0, cyclic: bool = False) -> Audio:
        """Audio of a latent: the session's `vae_window` from `t_start` seconds of it, or all of it if there is no window.

        cyclic: the latent is a loop, and a window may reach over its end. The window's bits equal the whole's to rounding.
        """
        if self.options.vae_window == 0:
            return self.decode_full(latent, cyclic=cyclic)
        window = stream_window(t_start, self.options.vae_window, len(latent), self.sample_rate, cyclic=cyclic)
        return self.decode_window(latent, window.span.first, len(window.span), cyclic=cyclic)

    def decode_window(self, latent: Latent, first_frame: int, frames: int, *, cyclic: bool = False) -> Audio:
        """Audio of some frames of a latent, equal to that part of its whole."""
        waveform = decode_window(
            self._codec, latent.frames, first_frame, frames, cyclic=cyclic, silence=self.checkpoint.silence
        )
        return self._audio(waveform, latent.origin_frame + first_frame)

    def decode_full(self, latent: Latent, *, cyclic: bool = False) -> Audio:
        """Audio of a whole latent. Samples above full scale are kept, and said in the log."""
        waveform = decode_full(self._codec, latent.frames, cyclic=cyclic, silence=self.checkpoint.silence)
        audio = self._audio(waveform, latent.origin_frame)
        if audio.peak > 1.0:
            log.warning("the audio %s", describe_peak(audio.peak))
        return audio

    def apply_lora(self, path: str | Path, scale: float = 1.0) -> str:
        """Put a LoRA on top of those that are applied; its id. Heard by every stream at its next tick.

        Raises DemonError, see `LoraLibrary`.
        """
        lora = self.loras.register(Path(path))
        self.loras.enable(lora, scale)
        self._applied = [other for other in self._applied if other != lora] + [lora]
        self._share_strengths()
        return lora

    def set_lora_strength(self, lora: str, strength: float) -> None:
        """Change the strength of an applied LoRA, without any pause. Heard by every stream at its next tick."""
        self.loras.set_strength(lora, strength)
        self._share_strengths()

    def remove_last_lora(self) -> str | None:
        """Take out the LoRA that was applied last; its id, or None if there is none."""
        if not self._applied:
            return None
        lora = self._applied.pop()
        self.loras.set_strength(lora, 0.0)
        self._share_strengths()  # its column may be another LoRA's from now on
        self.loras.remove(lora)
        self._share_strengths()
        return lora

    def remove_loras(self) -> None:
        """Take out all LoRAs: from now on results are bit for bit those of the bare checkpoint."""
        while self.remove_last_lora() is not None:
            pass

    def slot_request(self, modulation: Modulation, **parts: Any) -> SlotRequest:
        """The request of a modulation on this checkpoint; parts: see `Modulation.slot_request`."""
        conditioning = parts["conditioning"]
        structure = parts.pop("structure")
        return modulation.slot_request(
            null=self.null_conditioning(conditioning),
            context=self.checkpoint.structure.cover_context(structure.frames),
            tokens=self.checkpoint.settings.condition_tokens,
            adapters=self._strengths(),
            **parts,
        )

    def windows_of(self, frames: int) -> tuple[Span, ...]:
        """The windows that a piece of so many frames is made in: one, or for more than 240 s sliding ones of 60 s."""
        if frames <= LONGEST_WINDOW:
            return (Span(0, frames),)
        return sliding_windows(frames, SLIDING_WINDOW, SLIDING_OVERLAP)

    def stitch(self, windows: Sequence[Latent], frames: int) -> Latent:
        """A whole piece of so many frames from its windows, in any order, each faded into the next."""
        parts = {latent.origin_frame: latent.frames for latent in windows}
        return Latent(stitch_windows(parts, SLIDING_CROSSFADE)[:frames])

    def forget(self, stream: StreamHandle) -> None:
        """The stream is closed."""
        self._streams.discard(stream)

    def _strengths(self) -> torch.Tensor | None:
        strengths = self.loras.strengths()
        return strengths if len(strengths) else None

    def _share_strengths(self) -> None:
        for stream in list(self._streams):
            stream.set_adapters(self._strengths())

    def _audio(self, waveform: torch.Tensor, first_frame: int) -> Audio:
        return Audio(waveform.cpu(), self.sample_rate, first_frame * self._codec.hop)

    def _at_model_rate(self, audio: Audio) -> Audio:
        if audio.sample_rate == self.sample_rate:
            return audio
        samples = soxr.resample(
            audio.waveform.T.contiguous().numpy(), audio.sample_rate, self.sample_rate, quality="VHQ"
        )
        return Audio(torch.from_numpy(np.ascontiguousarray(samples.T, dtype=np.float32)), self.sample_rate)
