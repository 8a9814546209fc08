# SPDX-License-Identifier: Apache-2.0
"""The compiled decoder: every forward has one of few forms, which are compiled before music plays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine_server.diffusion.rows import RingShape
from engine_server.model.adapter_stack import AdapterStack
from engine_server.model.compile_cache import CompileCache
from engine_server.model.compiled import CompiledVelocity
from engine_server.model.dit import DitForward
from engine_server.model.dit_block import Adapters
from engine_server.model.forms import Form, even, filled_form, forms_of_ring, rows_of_form
from engine_server.model.graphs import GraphedVelocity

log = logging.getLogger("demon.engine")

MOST_OWN_LENGTHS = 32
"""Forms of a length of their own, of which every ring asks for one: `MOST_PROGRAMS` and memory leave no room for each length that
there is. Size classes are few."""


@dataclass(frozen=True)
class FormReady:
    """A form of a warm-up can be played now: the `number`-th of `of`, after so many seconds."""

    form: Form
    number: int
    of: int
    seconds: float


OnForm = Callable[[FormReady], None]


class StaticDecoder:
    """A `Decoder` whose forwards are filled up to forms, and cut to what was asked for.

    Rows are filled with repeats of the first, so that a row runs the same program in any company. A length without a form of its
    own is filled up to its size class, with frames that no other hears, and a forward without adapters may run with silent ones;
    if none of these is there, its size class is compiled at once, and the log says that playing waits for it. What is compiled is
    kept in `cache`, if there is one. One thread at a time, while others change the bank; inference only.
    """

    def __init__(
        self,
        transformer: Any,
        adapters: Adapters | None = None,
        *,
        run: CompiledVelocity | GraphedVelocity,
        cache: CompileCache | None = None,
    ) -> None:
        self._model = transformer
        self._cache = cache
        self._adapters = adapters
        self._run = run
        self._stack = AdapterStack(transformer)
        self._forward = DitForward(transformer, adapters, run=run, stack=self._stack)
        self.forms: set[Form] = set()
        """Those that were met: they compile no more."""

    def weights_changed(self) -> None:
        """Call after loading other weights into the same modules."""
        self._forward.weights_changed()
        if isinstance(self._run, GraphedVelocity):
            self._run.weights_changed(self._model)

    @torch.no_grad()
    def encode(self, states: Tensor, mask: Tensor, adapters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See `DitForward.encode`; not compiled, since a condition is encoded once."""
        return self._forward.encode(states, mask, adapters)

    @torch.no_grad()
    def warm_up(self, forms: Sequence[Form], on_form: OnForm | None = None) -> None:
        """Compile what is not compiled of these forms, one after another, and say so after each.

        A form with adapter columns makes room for so many. Raises DemonError `E_BACKEND`.
        """
        for number, wanted in enumerate(forms, start=1):
            began = time.perf_counter()
            self._stack.reserve(wanted.columns)
            form = replace(wanted, columns=self._stack.columns if wanted.columns else 0)
            self._forward_zeros(form)
            ready = FormReady(form, number, len(forms), time.perf_counter() - began)
            log.info("compiled %d of %d in %.1f s: %s", number, len(forms), ready.seconds, form)
            if on_form is not None:
                on_form(ready)

    def warm_up_ring(self, shape: RingShape, on_form: OnForm | None = None) -> None:
        """Compile what a ring of this shape meets with the adapters that there are now, if it is not compiled; as `warm_up`.

        After `MOST_OWN_LENGTHS` forms with a length of their own it is the size class of the ring's length.
        """
        self._update_stack()
        (form,) = forms_of_ring(shape, columns=[0 if self._stack.is_empty else self._stack.columns])
        if form not in self.forms and sum(not other.is_filled for other in self.forms) >= MOST_OWN_LENGTHS:
            form = filled_form(form)
        if form not in self.forms:
            self.warm_up([form], on_form)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        condition: tuple[Tensor, ...],
        adapters: Tensor | None = None,
    ) -> Tensor:
        """See `Decoder`."""
        if adapters is not None:
            self._update_stack()
        strengths = None if self._stack.is_empty else adapters
        rows, frames = x.shape[:2]
        columns = 0 if strengths is None else self._stack.columns
        form = self._form_of(Form(rows_of_form(rows), even(frames), condition[0].shape[-1], columns))
        if form.columns and strengths is None:
            strengths = x.new_zeros(rows, 1)
        if form in self.forms:
            return self._run_form(form, x, t, context, condition, strengths)
        log.warning("compiling %s while playing waits; a warm-up with this form would have done so before", form)
        began = time.perf_counter()
        out = self._run_form(form, x, t, context, condition, strengths)
        log.warning("compiled in %.1f s: %s", time.perf_counter() - began, form)
        return out

    def _update_stack(self) -> None:
        if self._adapters is not None:
            self._stack.update(self._adapters.snapshot)

    def _form_of(self, exact: Form) -> Form:
        """The best compiled form for a forward of these sizes, or the one to compile."""
        adapted = replace(exact, columns=self._stack.columns)
        able = (exact, adapted, filled_form(exact), filled_form(adapted))
        return next((form for form in able if form in self.forms), filled_form(exact))

    def _run_form(
        self,
        form: Form,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        condition: tuple[Tensor, ...],
        strengths: Tensor | None,
    ) -> Tensor:
        rows, frames = x.shape[:2]
        is_new, programs = form not in self.forms, self._run.programs
        with self._cache.compiling() if is_new and self._cache else nullcontext():
            out = self._forward(
                _filled(_longer(x, form.frames), form.rows),
                _filled(t, form.rows),
                _filled(_longer(context, form.frames), form.rows),
                tuple(_filled(part, form.rows) for part in condition),
                None if strengths is None else _filled(strengths, form.rows),
                real_frames=frames if form.is_filled else None,
            )
        if self._run.programs > programs and not is_new:
            log.warning("compiled once more, which no form foresaw, while playing waited: %s", form)
        self.forms.add(form)
        return out[:rows, :frames]

    def _forward_zeros(self, form: Form) -> None:
        weight, channels = self._model.proj_in_conv.weight, self._model.config.audio_acoustic_hidden_dim
        zeros = weight.new_zeros
        states = zeros(1, form.tokens, self._model.condition_embedder.in_features, dtype=torch.float32)
        mask = torch.ones(1, form.tokens, dtype=torch.bool, device=weight.device)
        condition = tuple(_filled(part, form.rows) for part in self.encode(states, mask))
        x = zeros(form.rows, form.frames, channels, dtype=torch.float32)
        t, context = zeros(form.rows, dtype=torch.float32), zeros(*x.shape[:2], 2 * channels, dtype=torch.float32)
        strengths = zeros(form.rows, 1, dtype=torch.float32) if form.columns else None
        self._run_form(form, x, t, context, condition, strengths)


def _filled(part: Tensor, rows: int) -> Tensor:
    """`[B, ...]` to so many rows by repeats of the first; the same tensor if there is nothing to fill."""
    missing = rows - len(part)
    return torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part.contiguous()


def _longer(part: Tensor, frames: int) -> Tensor:
    """`[B, T, C]` to so many frames, by zeros."""
    return F.pad(part, (0, 0, 0, frames - part.shape[1]))
