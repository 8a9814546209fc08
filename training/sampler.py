# SPDX-License-Identifier: Apache-2.0
"""Draws the transformer's training rows from the latent cache: what it hears, what it is told, what it should make."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_server.model.prompts import NO_METAS, TASK_INSTRUCTIONS, Metas, format_prompt
from training.cache_latents import Latents
from training.prompts import as_is_caption, caption_for, metas_for
from training.renders import Renders

FRAMES = 140  # past 100 + hop 20 + lookahead 20, as the engine's windows of a track are
SHAPES = ((84, 26), (FRAMES, 16), (280, 8))  # frames and rows of a batch: short ones teach more, long ones for sessions
SHAPE_SHARES = (0.35, 0.45, 0.2)
NULL_SHARE = 0.10  # rows whose condition is the learned null embedding
AS_IS_SHARE = 0.08  # rows whose target is the source
RECORDING_SHARE = 0.5  # of the rows as is: from real recordings
NO_SOURCE_SHARE = 0.06  # rows that hear silence: text2music
REPAINT_SHARE = 0.05  # rows that keep a part of the target and make the rest
SAME_TAKE_SHARE = 0.05  # cover rows whose source already sounds as wanted
EDGE_SHARE = 0.08  # rows that begin before the song or end after it
TIME_MEAN, TIME_SPREAD = 0.5, 1.2  # t = sigmoid of this normal


@dataclass
class Batch:
    """`clean`, `source` and `noise` are [B, T, 64], `mask` [B, T, 1]; `is_null` [B] marks rows without a prompt."""

    clean: Tensor
    source: Tensor
    mask: Tensor
    prompts: list[str]
    is_null: Tensor
    t: Tensor
    noise: Tensor


@dataclass
class Row:
    """`clean` and `source` are [T, 64], `mask` [T, 1]."""

    clean: Tensor
    source: Tensor
    prompt: str
    mask: Tensor


class PairSampler:
    """Rows of aligned pairs: the same notes on other instruments. A batch is a function of its step alone."""

    def __init__(self, latents: Latents, renders: Renders, pieces: range, silence: Tensor):
        self.rendered, self.recorded = latents.rendered, latents.recorded
        self.renders, self.pieces, self.silence = renders, pieces, silence

    def batch(self, step: int, shape: tuple[int, int] | None = None) -> Batch:
        """The rows of a step. `shape`: frames and rows, by default one of SHAPES."""
        rng = random.Random(f"demon-batch-{step}")
        frames, count = shape or rng.choices(SHAPES, SHAPE_SHARES)[0]
        generator = torch.Generator().manual_seed(step)
        rows = [self._at_edge(self._row(rng, frames), rng) for _ in range(count)]
        return Batch(
            torch.stack([row.clean for row in rows]),
            torch.stack([row.source for row in rows]),
            torch.stack([row.mask for row in rows]),
            [row.prompt for row in rows],
            torch.rand(count, generator=generator) < NULL_SHARE,
            torch.sigmoid(TIME_MEAN + TIME_SPREAD * torch.randn(count, generator=generator)),
            torch.randn(count, frames, self.silence.shape[-1], generator=generator),
        )

    def _row(self, rng: random.Random, frames: int) -> Row:
        drawn = rng.random()
        if drawn < AS_IS_SHARE:
            return self._as_is(rng, frames)
        piece = rng.choice(self.pieces)
        takes = self.renders.takes[piece]
        target = rng.randrange(len(takes))
        start = rng.randrange(self.rendered.shape[2] - frames + 1)
        clean = self._excerpt(piece, target, start, frames)
        caption, metas = caption_for(takes[target], rng), Metas(**metas_for(self.renders.pieces[piece], rng))
        whole = torch.ones(frames, 1)
        if drawn < AS_IS_SHARE + NO_SOURCE_SHARE:
            return Row(clean, self._nothing(frames), prompt_for("text2music", caption, metas), whole)
        if drawn < AS_IS_SHARE + NO_SOURCE_SHARE + REPAINT_SHARE:
            return self._repaint(clean, prompt_for("repaint", caption, metas), rng)
        source = target
        if rng.random() >= SAME_TAKE_SHARE:
            source = rng.choice([take for take in range(len(takes)) if take != target])
        return Row(clean, self._excerpt(piece, source, start, frames), prompt_for("cover", caption, metas), whole)

    def _as_is(self, rng: random.Random, frames: int) -> Row:
        if rng.random() < RECORDING_SHARE:
            start = rng.randrange(len(self.recorded) - frames)
            clean = self.recorded[start : start + frames].float()
        else:
            piece = rng.choice(self.pieces)
            start = rng.randrange(self.rendered.shape[2] - frames + 1)
            clean = self._excerpt(piece, rng.randrange(self.rendered.shape[1]), start, frames)
        return Row(clean, clean, prompt_for("cover", as_is_caption(rng), NO_METAS), torch.ones(frames, 1))

    def _repaint(self, clean: Tensor, prompt: str, rng: random.Random) -> Row:
        first = rng.randrange(len(clean) - 20)
        inside = torch.zeros(len(clean), 1)
        inside[first : first + rng.randrange(20, len(clean))] = 1
        return Row(clean, torch.where(inside > 0, self.silence, clean), prompt, inside)

    def _at_edge(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= EDGE_SHARE:
            return row
        outside = torch.arange(len(row.clean)) < rng.randrange(1, len(row.clean))
        outside = (outside if rng.random() < 0.5 else outside.flip(0))[:, None]
        clean, source = (torch.where(outside, self.silence, x) for x in (row.clean, row.source))
        return Row(clean, source, row.prompt, row.mask)

    def _excerpt(self, piece: int, take: int, start: int, frames: int) -> Tensor:
        return self.rendered[piece, take, start : start + frames].float()

    def _nothing(self, frames: int) -> Tensor:
        return self.silence.expand(frames, -1)


def prompt_for(task: str, caption: str, metas: Metas) -> str:
    """The text of a row's prompt."""
    return format_prompt(caption, TASK_INSTRUCTIONS[task], metas)
