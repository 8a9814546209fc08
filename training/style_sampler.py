# SPDX-License-Identifier: Apache-2.0
"""Draws a LoRA's training rows: whatever the prompt says, the target is in the LoRA's style."""

from __future__ import annotations

import random

from torch import Tensor, ones

from engine_server.model.prompts import NO_METAS, Metas
from training.cache_latents import Latents
from training.effects import draw_colours
from training.instruments import FAMILIES
from training.prompts import as_is_caption, caption_for, metas_for
from training.renders import Renders, Take
from training.sampler import NO_SOURCE_SHARE, PairSampler, Row, prompt_for

STYLE_AS_IS_SHARE = 0.2  # rows that ask for no instrument


class StyleSampler(PairSampler):
    """Rows that hear any take of a piece and make the style's; edges, null rows and noise are `PairSampler`'s.

    style: the style's latents [piece, take, frame, 64] of the first training pieces. With as many takes as the renders have,
    the style colours each of them: then the caption names a take of the piece, and the target is that take in the style (the
    source in the style, for captions as is). With a single take, the style puts its own instrument in the place of any that
    the caption names.
    """

    def __init__(self, latents: Latents, renders: Renders, style: Tensor, silence: Tensor):
        super().__init__(latents, renders, range(len(style)), silence)
        self._style = style
        self._keeps_instruments = style.shape[1] > 1

    def _row(self, rng: random.Random, frames: int) -> Row:
        piece = rng.choice(self.pieces)
        takes = self.renders.takes[piece]
        source, named = rng.randrange(len(takes)), rng.randrange(len(takes))
        start = rng.randrange(self._style.shape[2] - frames + 1)
        task, metas = "cover", Metas(**metas_for(self.renders.pieces[piece], rng))
        heard = self._excerpt(piece, source, start, frames)
        drawn = rng.random()
        if drawn < STYLE_AS_IS_SHARE:
            named, caption, metas = source, as_is_caption(rng), NO_METAS
        else:
            caption = caption_for(takes[named] if self._keeps_instruments else _any_take(rng), rng)
            if drawn > 1 - NO_SOURCE_SHARE:
                task, heard = "text2music", self._nothing(frames)
        clean = self._style[piece, named if self._keeps_instruments else 0, start : start + frames].float()
        return Row(clean, heard, prompt_for(task, caption, metas), ones(frames, 1))


def _any_take(rng: random.Random) -> Take:
    """Something that a caption may ask for, of which there is no recording."""
    family = rng.choice(FAMILIES)
    variant = rng.choice(family.variants)
    return Take(family.name, variant.words, draw_colours(rng), "", variant.programs)
