# SPDX-License-Identifier: Apache-2.0
"""A stream of generations of one source, played as an instrument: every tick is one step of everything in flight."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine_server.diffusion.curves import canonical_curve
from engine_server.diffusion.noise import NoiseSource, RequestNoise, WindowNoise
from engine_server.diffusion.parameters import PARAMETERS, STEP_TIME
from engine_server.diffusion.pipeline import PipelineStats, StreamPipeline
from engine_server.diffusion.request import SlotRequest
from engine_server.diffusion.ring import Completion
from engine_server.model.windows import Span
from engine_server.modulation import SHARED_NAMES, Modulation
from engine_server.session_audio import AudioToCome
from engine_server.types import Audio, Conditioning, Latent, PreparedSource

if TYPE_CHECKING:
    from engine_server.session import Session

MODULATION_FIELDS = frozenset(f.name for f in fields(Modulation))
OVERRIDES = frozenset({"seed", "steps", "shift", "method", "loras"}) | MODULATION_FIELDS
"""What `tick` takes."""
SEEDS = 1 << 64


class SharedControls(StreamPipeline):
    """The stream's pipeline, its step-time controls under the Session's names.

    before_tick: called by the thread that ticks. What it raises is the tick's, which then has not begun.
    """

    def __init__(self, *parts: Any, before_tick: Callable[[], None] | None = None, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._before_tick = before_tick

    def tick(self) -> list[Completion]:
        """See `StreamPipeline.tick`."""
        if self._before_tick is not None:
            self._before_tick()
        return super().tick()

    def set_shared_curve(self, name: str, value: Any) -> None:
        """See `StreamPipeline.set_shared_curve`; `ode_noise_curve` and the like are taken as well as the sampler's own names.

        A curve of another length than the window is stretched to it.
        """
        shared = SHARED_NAMES.get(name, name)
        if shared in _STRETCHED and value is not None:
            value = canonical_curve(value, self.shape.frames, name=name, resample=True)
        super().set_shared_curve(shared, value)


_STRETCHED = frozenset(
    name for name in STEP_TIME if PARAMETERS[name].kind == "curve" and name not in ("temporal_weights", "adapters")
)


class StreamHandle:
    """See the module. `conditioning`, `source` and `context_latent` may be replaced at any time: the next request has them.

    A source brings its own structure; `context_latent` puts another one of that length in its place. `pipeline`: what is in
    flight, and the controls that act on all of it at the next tick. One thread, but for the pipeline's setters.
    """

    def __init__(
        self,
        session: Session,
        pipeline: SharedControls,
        source: PreparedSource,
        conditioning: Conditioning,
        *,
        has_source: bool = True,
        **base: Any,
    ) -> None:
        self.pipeline = pipeline
        self.conditioning = conditioning
        self._session = session
        self._has_source = has_source
        self._base = _checked(base)
        self._numbers = itertools.count()
        self._finished: list[Latent] = []
        """By `generate`, on the way to its own."""
        self._is_open = True
        self.source = source

    @property
    def source(self) -> PreparedSource:
        """The piece that new requests are made of."""
        return self._source

    @source.setter
    def source(self, source: PreparedSource) -> None:
        self._source = source
        self.context_latent = source.context_latent
        self._window = self._session.windows_of(len(source))[0]

    @property
    def origin_frame(self) -> int:
        """Where the window that new requests are made of begins; 0 but for long pieces."""
        return self._window.first

    def seek(self, playhead_s: float) -> None:
        """Of a piece too long for one window, work on the window around a time; what is in flight stays at its own place."""
        frame = round(playhead_s * self._session.frame_rate)
        windows = self._session.windows_of(len(self.source))
        self._window = min(windows, key=lambda window: abs(frame - (window.first + window.stop) / 2))

    def submit(self, **overrides: Any) -> int:
        """Hand in a request made of the handle's state, its base values and `overrides` (see `OVERRIDES`); its number.

        With live admission it takes the place of one that still waits. Raises ValueError for an unknown name or a value that does
        not fit, RuntimeError once the stream is closed.
        """
        return self._submit(self._window, **overrides)

    def submit_windows(self) -> list[int]:
        """A request for every window of the piece, one or several; their numbers. For streams that queue."""
        return [self._submit(window) for window in self._session.windows_of(len(self.source))]

    def tick(self, **overrides: Any) -> list[Latent]:
        """Submit a request, then advance everything by one step: the generations that this finished, mostly one or none."""
        self.submit(**overrides)
        return self.advance()

    def advance(self) -> list[Latent]:
        """Advance everything by one step, without a new request."""
        return self._handed_out(self.pipeline.tick())

    def generate(self, **overrides: Any) -> Latent:
        """Submit a request and tick until it is finished. What finishes before is handed out by the next `advance` or `drain`."""
        number = self.submit(**overrides)
        finished = [_latent(done) for done in self.pipeline.run_until(number)]
        self._finished += [latent for latent in finished if latent.request_id != number]
        return next(latent for latent in finished if latent.request_id == number)

    def drain(self) -> list[Latent]:
        """Finish everything that waits or is in flight."""
        return self._handed_out(self.pipeline.drain())

    def decode(self, latent: Latent, *, t_start: float = 0.0, cyclic: bool = False) -> Audio:
        """The session's decode: its `vae_window` from `t_start` seconds of the latent on, or all of it."""
        return self._session.decode(latent, t_start=t_start, cyclic=cyclic)

    def begin_decode(self, latent: Latent, *, t_start: float = 0.0, cyclic: bool = False) -> AudioToCome:
        """`decode` without waiting for a GPU, which decodes beside the next ticks: see `SessionAudio.begin_decode`."""
        return self._session.begin_decode(latent, t_start=t_start, cyclic=cyclic)

    def stats(self) -> PipelineStats:
        """How the stream stands."""
        return self.pipeline.stats()

    def close(self) -> None:
        """Drop what is in flight; no more requests are taken. May be called again."""
        self._is_open = False
        self._finished.clear()
        self.pipeline.close()
        self._session.forget(self)

    def _handed_out(self, done: Sequence[Completion]) -> list[Latent]:
        finished, self._finished = self._finished, []
        return [*finished, *map(_latent, done)]

    def _submit(self, window: Span, **overrides: Any) -> int:
        if not self._is_open:
            raise RuntimeError("the stream is closed")
        number = next(self._numbers)
        self.pipeline.submit(self._request(number, window, **overrides))
        return number

    def _request(self, number: int, window: Span, **overrides: Any) -> SlotRequest:
        given = self._base | _checked(overrides)
        total = len(self.source)
        if len(self.context_latent) != total:
            raise ValueError(
                f"context_latent has {len(self.context_latent)} frames; the {total} of the source are expected"
            )
        modulation = Modulation(**{name: value for name, value in given.items() if name in MODULATION_FIELDS})
        noise: NoiseSource = RequestNoise(_checked_seed(given["seed"]))
        source, structure, conditioning = self.source.latent, self.context_latent, self.conditioning
        if len(window) < total:
            cut = (window.first, len(window))
            *_, last = self._session.windows_of(total)
            noise = WindowNoise(noise, window.first, last.stop)  # one length for all windows: the values depend on it
            modulation, conditioning = modulation.within(*cut, total), conditioning.part(*cut, total)
            source, structure = source.part(*cut), structure.part(*cut)
        return self._session.slot_request(
            modulation,
            loras=given.get("loras"),
            request_id=number,
            noise=noise,
            conditioning=conditioning,
            structure=structure,
            source=source if self._has_source else None,
            steps=given["steps"],
            shift=given["shift"],
            method=given["method"],
            origin_frame=window.first,
        )

    def set_adapters(self, strengths: Tensor | None) -> None:
        """LoRA strengths of everything in flight and to come that names none of its own, from the next tick on.

        Called by the session.
        """
        self.pipeline.set_adapters(strengths)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(values) - OVERRIDES):
        raise ValueError(f"{unknown[0]!r} is not taken; one of {', '.join(sorted(OVERRIDES))} is expected")
    return values


def _checked_seed(seed: object) -> int:
    if not (isinstance(seed, int) and 0 <= seed < SEEDS):
        raise ValueError(f"seed is {seed!r}; a whole number from 0 to 2^64 - 1 is expected")
    return seed


def _latent(done: Completion) -> Latent:
    return Latent(done.latent, done.request.origin_frame, done.request_id)
