# SPDX-License-Identifier: Apache-2.0
"""The decoder behind a ring, run by an engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine_server.diffusion.decoder import Encoded
from engine_server.model.backends import NO_LORAS, ONE_MIX
from engine_server.model.lora_mix import BARE, Mix
from engine_server.model.recipes import RECIPES
from shared_protocol.errors import DemonError
from trt_engines.engine_program import Bound, EngineProgram, NoRoomError
from trt_engines.forward_plan import DecoderSizes, Form, Forward
from trt_engines.refit_engine import RefitEngine
from trt_engines.refit_weights import MergedWeights
from trt_engines.refit_worker import LiveWeights

log = logging.getLogger("demon.engine")


class EngineDecoder:
    """A `Decoder`. Where memory has no room for a batch, it runs in smaller ones from then on, and says so in the log.

    Frames that fill a window up to the engine's least are heard by the rest: the log says that, too. LoRAs are a part of its
    weights, the same for all rows (`refit_worker.py`); which, `ask` says, and `settle` makes a tick hear. One thread at a time,
    but for `ask`; inference only.
    """

    def __init__(self, program: EngineProgram, sizes: DecoderSizes, spare: EngineProgram | None = None) -> None:
        """spare: the same engine, loaded once more, where its weights can be written."""
        self._program = program
        self._spare = spare
        self._weights: LiveWeights | None = None
        self._sizes = sizes
        self._most_rows = sizes.rows.most
        self._has_told_of_short = False

    @property
    def precision(self) -> str:
        """The name of the engine's recipe."""
        return self._sizes.file.note.precision

    @property
    def lora_refusal(self) -> str | None:
        """Why it hears no LoRA, with what builds one that does; None if it hears them."""
        if self._spare is not None:
            return None
        command = self._sizes.file.command(is_refittable=True)
        return f"{self._sizes.file.path}: {NO_LORAS}, or run: {command}"

    def adapt(self, transformer: Any, device: torch.device) -> None:
        """Take what LoRAs are merged with: see `MergedWeights`. Nothing, where weights cannot be written.

        Raises DemonError `E_ENGINE_FILE` if the engine was not built as its note says.
        """
        if self._spare is None:
            return
        weights = MergedWeights(transformer, RECIPES[self._sizes.file.note.precision], device)
        rebuild = self._sizes.file.command()
        playing, spare = (RefitEngine(one, weights, rebuild=rebuild) for one in (self._program, self._spare))
        self._weights = LiveWeights(playing, spare)

    @property
    def heard(self) -> Mix:
        """The LoRAs in the weights that run now."""
        return BARE if self._weights is None else self._weights.heard

    def ask(self, mix: Mix) -> None:
        """Have all rows hear these LoRAs from one of the next ticks on. Any thread; returns at once."""
        assert self._weights is not None
        self._weights.ask(mix)

    def settle(self, *, exact: bool) -> None:
        """A tick begins: no row of it hears other weights than another. See `LiveWeights.settle`."""
        if self._weights is not None:
            self._program = self._weights.settle(exact=exact)

    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> Encoded:
        """The engine's own inputs. Raises DemonError `E_BACKEND` for strengths of LoRAs that are a row's own."""
        self._refuse(adapters)
        return states, mask

    @torch.no_grad()
    def __call__(
        self, x: Tensor, t: Tensor, context: Tensor, condition: Encoded, adapters: Tensor | None = None
    ) -> Tensor:
        """See `Decoder`. Raises DemonError: `E_BACKEND` as `encode`, `E_MEMORY` if not even the smallest batch has room, and what
        `DecoderSizes.plan` and `EngineProgram` raise."""
        self._refuse(adapters)
        states, mask = condition
        forward, bound = self._ready(*x.shape[:2], states.shape[1], x.shape[2], states.shape[2], context.shape[2])
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        parts = {
            "hidden_states": x,
            "timestep": t,
            "encoder_hidden_states": states,
            "encoder_mask": mask,
            "context_latents": context,
        }
        for run in forward.runs:
            for name, part in parts.items():
                fill(bound.inputs[name], part[run.start : run.stop])
            bound.run()
            out[run.start : run.stop] = bound.outputs["velocity"][: len(run), : x.shape[1]]
        return out

    def _refuse(self, adapters: Tensor | None) -> None:
        if adapters is not None and adapters.shape[-1]:
            raise DemonError("E_BACKEND", self.lora_refusal or ONE_MIX)

    def _ready(self, rows: int, frames: int, tokens: int, *channels: int) -> tuple[Forward, Bound]:
        while True:
            forward = self._sizes.plan(rows, frames, tokens, most_rows=self._most_rows)
            try:
                bound = self._program.bind(_shapes(forward.form, channels))
            except NoRoomError as error:
                self._take_fewer(forward.form.rows, error)
                continue
            self._tell_of_short(frames, forward.form)
            return forward, bound

    def _take_fewer(self, rows: int, error: NoRoomError) -> None:
        if rows <= self._sizes.rows.least:
            raise DemonError(
                "E_MEMORY",
                f"the GPU's memory has no room for {rows} row(s) of the engine ({error}); end what else uses this GPU "
                f"(see nvidia-smi), build an engine for shorter windows, or use the eager backend",
            ) from None
        self._most_rows = rows // 2
        log.warning("memory has no room for %d rows at once (%s); from now on %d run at once", rows, error, rows // 2)

    def _tell_of_short(self, frames: int, form: Form) -> None:
        if form.frames - frames > 1 and not self._has_told_of_short:
            self._has_told_of_short = True
            log.warning(
                "a window of %d frames is shorter than the engine's %d: it is filled up, and what fills it is heard by the rest; "
                "make longer windows, or use the eager backend",
                frames,
                form.frames,
            )


def fill(buffer: Tensor, part: Tensor) -> None:
    """Copy rows into a buffer that may have more rows, filled with the first, and be longer in dimension 1, filled with zeros."""
    rows = part.shape[0]
    if part.ndim > 1:
        buffer[:, part.shape[1] :] = 0
        buffer = buffer[:, : part.shape[1]]
    buffer[:rows].copy_(part)
    if rows < len(buffer):
        buffer[rows:] = part[:1]


def _shapes(form: Form, channels: Sequence[int]) -> dict[str, tuple[int, ...]]:
    latent, width, context = channels
    return {
        "hidden_states": (form.rows, form.frames, latent),
        "timestep": (form.rows,),
        "encoder_hidden_states": (form.rows, form.tokens, width),
        "encoder_mask": (form.rows, form.tokens),
        "context_latents": (form.rows, form.frames, context),
    }
