# SPDX-License-Identifier: Apache-2.0
"""What must hold exactly, and what must at least differ: checks that catch a broken chain, not a weak model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from engine_server.types import Latent, NoiseMask
from training.evaluation.generate import Wish, generate
from training.evaluation.latents import latent_distance
from training.evaluation.material import PIECE_S
from training.evaluation.report import Figure, Listing, mean, share
from training.evaluation.spectra import rms
from training.evaluation.subject import Subject

SECONDS = min(8.0, PIECE_S)
PIECES, PROMPT_PIECES = 4, 12
PINNED = slice(40, 140)
GUIDANCES = (1.0, 2.0)


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """The checks, over a few held-out pieces."""
    pieces = range(min(subject.held_out.pieces, PIECES))
    sources = [subject.prepare(subject.held_out.audio(piece, 0, seconds=SECONDS)) for piece in pieces]
    prompts = [subject.held_out.takes(piece)[1].words[0] for piece in pieces]
    session = subject.session

    kept, heard_apart = [], 0.0
    margin = subject.codec.decoder_margin
    alone = slice((PINNED.start + margin) * subject.codec.hop, (PINNED.stop - margin) * subject.codec.hop)
    for source, prompt in zip(sources, prompts, strict=True):
        mask = torch.ones(len(source))
        mask[PINNED] = 0.0
        result = session.generate(
            conditioning=session.encode_text(tags=prompt), source=source, noise_mask=NoiseMask(mask, source.latent)
        )
        kept.append(torch.equal(result.frames[PINNED], source.latent.frames[PINNED]))
        apart = subject.hear(result) - subject.hear(Latent(source.latent.frames))
        heard_apart = max(heard_apart, float(apart[:, alone].abs().max()))
    yield Figure("pinned frames equal the source", sum(kept) / len(kept), "", len(kept), note="bit for bit")
    yield Figure(
        "audio of pinned frames",
        heard_apart,
        "",
        len(kept),
        note="largest difference of a sample from the coded source",
    )

    returned, rows = [], 0
    for source, prompt in zip(sources, prompts, strict=True):
        stream = session.stream(source=source, conditioning=session.encode_text(tags=prompt), pipeline_depth=4)
        returned.append(torch.equal(stream.generate(denoise=0.0).frames, source.latent.frames))
        rows += stream.stats().decoder_rows
        stream.close()
    yield Figure("denoise 0 returns the source", sum(returned) / len(returned), "", len(returned), note="bit for bit")
    yield Figure("forwards at denoise 0", rows, "", len(returned))

    yield from _prompts_against_seeds(subject)

    weak, strong = (
        generate(session, [Wish(s, p) for s, p in zip(sources, prompts, strict=True)], guidance=scale)
        for scale in GUIDANCES
    )
    ratios = [latent_distance(a, b) / rms(a.frames) for a, b in zip(weak, strong, strict=True)]
    yield mean("guidance 2 against 1", ratios, note="RMS distance over RMS of the latents")

    again = []
    for piece, source in zip(pieces, sources, strict=True):
        audio = subject.held_out.audio(piece, 0, seconds=SECONDS)
        again.append(latent_distance(subject.prepare(audio).latent, source.latent) / rms(source.latent.frames))
    yield Figure("encoding again", max(again), "", len(again), note="RMS distance over RMS of the latents")


def _prompts_against_seeds(subject: Subject) -> Iterator[Figure]:
    """Whether another prompt changes every piece more than another seed does."""
    wishes = []
    for piece in range(min(subject.held_out.pieces, PROMPT_PIECES)):
        source = subject.prepare(subject.held_out.audio(piece, 0, seconds=SECONDS))
        prompt, other = (subject.held_out.takes(piece)[take].words[0] for take in (1, 2))
        wishes += [Wish(source, words, seed) for words, seed in ((prompt, 0), (other, 0), (prompt, 1))]
    covers = subject.covers(wishes, "prompts against seeds")
    ratios = [
        latent_distance(one, by_prompt) / max(latent_distance(one, by_seed), 1e-9)
        for one, by_prompt, by_seed in zip(covers[::3], covers[1::3], covers[2::3], strict=True)
    ]
    note = "RMS distance of latents"
    yield share("prompts differ more than seeds", sum(ratio > 1 for ratio in ratios), len(ratios), note)
    yield Figure("prompts against seeds, smallest ratio", min(ratios), "", len(ratios), note=note)
