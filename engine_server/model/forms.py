# SPDX-License-Identifier: Apache-2.0
"""The forms of a forward: sizes that one compiled program takes, and no others.

A ring's forwards have one number of rows, one length and one condition length, so that few forms are met while music plays, and
all of them can be compiled before. A length that nobody foresaw (a clip that was just captured) is filled up to its size class,
where the other lengths of that class find the program compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine_server.diffusion.ring import DEFAULT_BATCH
from engine_server.diffusion.rows import RingShape

CLASSES_PER_OCTAVE = 4
"""Size classes between a length and its double: a filled-up forward is less than a quarter longer than it need be."""
SHORTEST_CLASS = 32


@dataclass(frozen=True, order=True)
class Form:
    """Sizes of a forward: rows, latent frames (even), condition tokens, and columns of adapters, 0 for a forward without."""

    rows: int
    frames: int
    tokens: int
    columns: int = 0
    is_filled: bool = False
    """Whether shorter lengths are filled up to `frames`, and attention is told how many there are."""

    def __str__(self) -> str:
        length = f"up to {self.frames}" if self.is_filled else str(self.frames)
        adapters = f"adapters of {self.columns} columns" if self.columns else "no adapters"
        return f"{self.rows} rows of {length} frames, {self.tokens} condition tokens, {adapters}"


def forms_of_ring(shape: RingShape, *, batch: int = DEFAULT_BATCH, columns: Sequence[int] = (0,)) -> list[Form]:
    """What the forwards of a ring are: of its own length, for every number of adapter columns."""
    return [Form(rows_of_form(batch), even(shape.frames), shape.tokens, each) for each in columns]


def filled_form(form: Form) -> Form:
    """The form of a form's whole size class."""
    return replace(form, frames=size_class(form.frames), is_filled=True)


def rows_of_form(rows: int) -> int:
    """Rows that a forward of so many is filled up to: whole batches of a ring."""
    return -(-rows // DEFAULT_BATCH) * DEFAULT_BATCH


def size_class(frames: int) -> int:
    """Frames that an unforeseen length is filled up to: the next of four lengths per octave (256, 320, 384, 448, 512, ...)."""
    if frames <= SHORTEST_CLASS:
        return SHORTEST_CLASS
    step = 2 ** ((frames - 1).bit_length() - 1) // CLASSES_PER_OCTAVE
    return -(-frames // step) * step


def even(frames: int) -> int:
    """Whole patches of two frames."""
    return frames + frames % 2
