# SPDX-License-Identifier: Apache-2.0
"""How a forward of any size runs on an engine of some sizes: which rows together, filled up to what. Nothing here computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared_protocol.errors import DemonError
from shared_protocol.timebase import FRAMES_PER_SECOND
from trt_engines.engine_file import EngineFile
from trt_engines.engine_kinds import DURATIONS_S
from trt_engines.profiles import Span

PATCH = 2
"""Frames of a token of the decoder."""


@dataclass(frozen=True)
class Form:
    """Sizes of one run of a decoder's engine: rows B, frames T and condition tokens L."""

    rows: int
    frames: int
    tokens: int


@dataclass(frozen=True)
class Forward:
    """A forward of `rows` rows as runs of one form, one after another, so that every row meets the same batch.

    Rows that the last run has no use for repeat its first. Frames and tokens beyond those asked for are zeros; the mask says that
    such tokens are not real, and such frames are cut off.
    """

    form: Form
    rows: int

    @property
    def runs(self) -> tuple[range, ...]:
        """The rows of each run."""
        return tuple(
            range(first, min(first + self.form.rows, self.rows)) for first in range(0, self.rows, self.form.rows)
        )


@dataclass(frozen=True)
class DecoderSizes:
    """What a decoder's engine takes, and what builds one that takes more frames."""

    rows: Span
    frames: Span
    tokens: Span
    file: EngineFile

    @classmethod
    def of(cls, file: EngineFile) -> DecoderSizes:
        """As its note says. Raises DemonError `E_ENGINE_FILE` for a note of other inputs."""
        return cls(
            file.span("hidden_states", 0), file.span("hidden_states", 1), file.span("encoder_hidden_states", 1), file
        )

    def plan(self, rows: int, frames: int, tokens: int, *, most_rows: int | None = None) -> Forward:
        """How a forward of at least one row runs. most_rows: of one run, where memory has no room for the engine's own most.

        As few runs as can be, and in each as few rows as can be. Raises DemonError: `E_ENGINE_NOT_BUILT` for more frames than the
        engine takes, with what builds one that takes them, `E_FIELD` for more tokens.
        """
        if frames > self.frames.most:
            raise self._too_long(frames)
        if tokens > self.tokens.most:
            raise DemonError(
                "E_FIELD",
                f"the condition has {tokens} tokens, and {self.file.path} takes {self.tokens.most} at most; shorten the lyrics, "
                f"or use the eager backend",
            )
        most = self.rows.most if most_rows is None else max(self.rows.least, min(most_rows, self.rows.most))
        together = math.ceil(rows / math.ceil(rows / most))
        return Forward(
            Form(
                max(together, self.rows.least),
                max(frames + -frames % PATCH, self.frames.least),
                max(tokens, self.tokens.least),
            ),
            rows,
        )

    def _too_long(self, frames: int) -> DemonError:
        wanted_s, most_s = frames / FRAMES_PER_SECOND, self.frames.most / FRAMES_PER_SECOND
        told = f"{self.file.path} is for windows of up to {most_s:g} s, and this one has {wanted_s:g} s"
        if wanted_s > DURATIONS_S[-1]:
            return DemonError("E_FIELD", f"{told}; engines end at {DURATIONS_S[-1]} s: use the eager backend")
        return DemonError("E_ENGINE_NOT_BUILT", f"{told}; run: {self.file.command(least_s=wanted_s)}")
