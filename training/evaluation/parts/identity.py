# SPDX-License-Identifier: Apache-2.0
"""What must hold exactly, and what must at least differ: checks that catch a broken chain, not a weak model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine_server.types import Latent, NoiseMask
from training.evaluation.generate import Wish, generate
from training.evaluation.material import PIECE_S
from training.evaluation.report import Figure, Listing, mean
from training.evaluation.subject import Subject

SECONDS = min(8.0, PIECE_S)
PINNED = slice(40, 90)
GUIDANCES = (1.0, 2.0)


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """The checks, over a few held-out pieces."""
    pieces = range(min(subject.held_out.pieces, 4))
    sources = [subject.prepare(subject.held_out.audio(piece, 0, seconds=SECONDS)) for piece in pieces]
    prompts = [subject.held_out.takes(piece)[1].words[0] for piece in pieces]
    others = [subject.held_out.takes(piece)[2].words[0] for piece in pieces]
    session = subject.session

    kept = []
    for source, prompt in zip(sources, prompts, strict=True):
        mask = torch.ones(len(source))
        mask[PINNED] = 0.0
        result = session.generate(
            conditioning=session.encode_text(tags=prompt), source=source, noise_mask=NoiseMask(mask, source.latent)
        )
        kept.append(torch.equal(result.frames[PINNED], source.latent.frames[PINNED]))
    yield Figure("pinned frames equal the source", sum(kept) / len(kept), "", len(kept), note="bit for bit")

    returned, rows = [], 0
    for source, prompt in zip(sources, prompts, strict=True):
        stream = session.stream(source=source, conditioning=session.encode_text(tags=prompt), pipeline_depth=4)
        returned.append(torch.equal(stream.generate(denoise=0.0).frames, source.latent.frames))
        rows += stream.stats().decoder_rows
        stream.close()
    yield Figure("denoise 0 returns the source", sum(returned) / len(returned), "", len(returned), note="bit for bit")
    yield Figure("forwards at denoise 0", rows, "", len(returned))

    wishes = [
        Wish(source, words, seed)
        for source, prompt, other in zip(sources, prompts, others, strict=True)
        for words, seed in ((prompt, 0), (other, 0), (prompt, 1))
    ]
    covers = subject.covers(wishes, "prompts against seeds")
    ratios = [
        _distance(one, by_prompt) / max(_distance(one, by_seed), 1e-9)
        for one, by_prompt, by_seed in zip(covers[::3], covers[1::3], covers[2::3], strict=True)
    ]
    yield mean("prompts differ, against seeds", ratios, note="RMS distance of latents")

    weak, strong = (
        generate(session, [Wish(s, p) for s, p in zip(sources, prompts, strict=True)], guidance=scale)
        for scale in GUIDANCES
    )
    apart = [_distance(a, b) / _rms(a.frames) for a, b in zip(weak, strong, strict=True)]
    yield mean("guidance 2 against 1", apart, note="RMS distance over RMS of the latents")

    again = []
    for piece, source in zip(pieces, sources, strict=True):
        audio = subject.held_out.audio(piece, 0, seconds=SECONDS)
        again.append(_distance(subject.prepare(audio).latent, source.latent) / _rms(source.latent.frames))
    yield Figure("encoding again", max(again), "", len(again), note="RMS distance over RMS of the latents")


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _distance(a: Latent, b: Latent) -> float:
    return _rms(a.frames - b.frames)
