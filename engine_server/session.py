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
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from engine_server.diffusion.dcw_settings import UNSET, DcwSettings, Unset
from engine_server.diffusion.intake import Admission
from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.diffusion.rows import RingShape
from engine_server.model.auto_backend import load_chosen
from engine_server.model.backends import AUTO, EAGER, TENSORRT
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.model.codec import Codec, with_backend
from engine_server.model.lora import linear_shapes
from engine_server.model.lora_library import LoraLibrary
from engine_server.model.prompts import Metas
from engine_server.model.static_decoder import StaticDecoder
from engine_server.model.timbre import TimbreReference
from engine_server.model.windows import SLIDING_CROSSFADE, Span, piece_windows, stitch_windows
from engine_server.modulation import Modulation
from engine_server.session_audio import SessionAudio
from engine_server.session_loras import SessionLoras
from engine_server.session_options import SessionOptions
from engine_server.stream import SharedControls, StreamHandle
from engine_server.types import Conditioning, Latent, PreparedSource
from shared_protocol.timebase import FRAMES_PER_SECOND

log = logging.getLogger(__name__)

COMPILED_SPAN_S = 4.0
"""Length that a compiled codec decodes at once, where no `vae_window` asks for another."""


class Session(SessionAudio, SessionLoras):
    """See the module. One thread at a time, but for LoRA strengths and the controls of streams.

    model: `embedded`, a folder, or `owner/name` of a hub. decoder_backend, vae_backend: auto, eager, compile or tensorrt.
    vae_window: seconds that a stream's decode covers, 0 for all. trt_engines: files of TensorRT engines, or their folders, as
    `demon engines build` makes them: `decoder` for one backend, by default the checkpoint's own in the engines' folder,
    `vae_encode` and `vae_decode` for the other. quantization: `int8`, `fp8` or None. device, dtype: see `placement`.

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
        checkpoint = load_chosen(
            model,
            device=device,
            dtype=dtype,
            backend=decoder_backend,
            quantization=quantization,
            engine=self.options.trt_engines.get("decoder"),
        )
        self.backend = checkpoint.choice
        """The decoder's backend, with the reason in words."""
        log.info("decoder %s", self.backend.reason)
        # What another one gains for a codec was never measured.
        codec = self._codec_by(EAGER if vae_backend == AUTO else vae_backend, model, checkpoint)
        SessionAudio.__init__(self, checkpoint, codec, vae_window)
        library = LoraLibrary(checkpoint.adapters, linear_shapes(checkpoint.transformer))
        run: Any = checkpoint.decoder
        SessionLoras.__init__(self, library, run if self.backend.backend == TENSORRT else None)

    def _codec_by(self, backend: str, model: str, checkpoint: Checkpoint) -> Codec:
        """The checkpoint's codec, run by a backend."""
        codec, window = checkpoint.codec, self.options.vae_window
        span = math.ceil(window * FRAMES_PER_SECOND + 2 * codec.decoder_margin) if window else None
        if backend != "tensorrt":
            return with_backend(codec, backend, fixed_span=span or math.ceil(COMPILED_SPAN_S * FRAMES_PER_SECOND))
        from trt_engines.open_engines import OpenEngines

        engines = checkpoint.engines or OpenEngines(model, checkpoint.content_hash, checkpoint.placement.device)
        paths = self.options.trt_engines
        return engines.codec(codec, paths["vae_encode"], paths["vae_decode"], span=span)

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
        loras: Mapping[str, float] | None = None,
        **modulation: Any,
    ) -> Latent:
        """One finished generation.

        source: a prepared piece, or its parts: `source_latent` (what is transformed) and `context_latent` (the structure that the
        decoder sees). Without either, `duration` seconds are made from nothing. steps, shift: the checkpoint's own by default.
        loras: strengths of applied LoRAs by id, for this generation; those that it does not name have the session's. modulation:
        fields of `Modulation`. Pieces beyond 240 s are made in sliding windows, `pipeline_depth` at a time.

        Raises ValueError naming the argument that does not fit, DemonError for a LoRA that is not applied.
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
            loras=loras,
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
        dcw: DcwSettings | Unset | None = UNSET,
        admission: str = Admission.LIVE,
        warm: str = "even",
        has_source: bool = True,
        loras: Mapping[str, float] | None = None,
        **modulation: Any,
    ) -> StreamHandle:
        """A stream of generations of a source, in flight `pipeline_depth` at a time (by default as many as steps).

        dcw: the wavelet correction that all share, None for none; by default what suits the checkpoint. admission, warm: see
        `StreamPipeline`. has_source: False to show the decoder the source's structure only. loras, modulation: strengths by id
        as in `generate`, and fields of `Modulation`, the base of every request. A compiled decoder compiles before this returns
        if it never met the length.
        """
        steps = self.checkpoint.settings.steps if steps is None else steps
        shape = RingShape(
            depth=steps if pipeline_depth is None else pipeline_depth,
            frames=len(self.windows_of(len(source))[0]),
            channels=self._codec.latent_channels,
            tokens=self.checkpoint.settings.condition_tokens,
            width=self.checkpoint.condition_width,
        )
        if isinstance(self.checkpoint.decoder, StaticDecoder):
            self.checkpoint.decoder.warm_up_ring(shape)
        if isinstance(dcw, Unset):
            dcw = DcwSettings() if self.checkpoint.settings.dcw else None
        pipeline = SharedControls(
            self.checkpoint.decoder,
            shape,
            admission=admission,
            warm=warm,
            dcw=dcw,
            batch=DEFAULT_BATCH,
            device=self.checkpoint.placement.device,
            before_tick=self._settles(is_exact=admission == Admission.QUEUE),
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
            loras=loras,
            **modulation,
        )
        self._streams.add(handle)
        handle.set_adapters(self.row_strengths())
        return handle

    def slot_request(
        self, modulation: Modulation, *, loras: Mapping[str, float] | None = None, **parts: Any
    ) -> SlotRequest:
        """The request of a modulation on this checkpoint; parts: see `Modulation.slot_request`.

        Without `loras` it brings no strengths, and hears those that its stream shares. Raises DemonError, see
        `LoraLibrary.strengths`.
        """
        conditioning = parts["conditioning"]
        structure = parts.pop("structure")
        return modulation.slot_request(
            null=self.null_conditioning(conditioning),
            context=self.checkpoint.structure.cover_context(structure.frames),
            tokens=self.checkpoint.settings.condition_tokens,
            adapters=None if loras is None else self.row_strengths(loras),
            **parts,
        )

    def windows_of(self, frames: int) -> tuple[Span, ...]:
        """The windows that a piece of so many frames is made in: one, or for more than 240 s sliding ones of 60 s."""
        return piece_windows(frames)

    def stitch(self, windows: Sequence[Latent], frames: int) -> Latent:
        """A whole piece of so many frames from its windows, in any order, each faded into the next."""
        parts = {latent.origin_frame: latent.frames for latent in windows}
        return Latent(stitch_windows(parts, SLIDING_CROSSFADE)[:frames])

    def forget(self, stream: StreamHandle) -> None:
        """The stream is closed."""
        self._streams.discard(stream)
