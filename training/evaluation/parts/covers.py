# SPDX-License-Identifier: Apache-2.0
"""Covers: does a prompted family sound, are the notes kept, does the colour move the right way?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine_server.types import PreparedSource
from training.evaluation.descriptors import centroid_hz, onset_agreement, onset_envelope, tempo_agrees
from training.evaluation.generate import Wish
from training.evaluation.notes import Posterior, note_posterior, posterior_f1
from training.evaluation.report import Figure, Listing, mean, share
from training.evaluation.subject import Subject
from training.evaluation.taught import taught_centroids_hz
from training.instruments import FAMILIES
from training.renders import Take

SECONDS = 10.0
DENOISES = (0.6, 1.0)
CENTROID_RATIO = 1.05
"""Centroids that are nearer than this tell no direction."""
REFERENCE = "reference"


@dataclass(frozen=True)
class Pair:
    """A piece, the take that is the source, and the take whose family is asked for."""

    piece: int
    source: int
    target: int


@dataclass(frozen=True, eq=False)
class Heard:
    """What is kept of some audio: its notes, its onset envelope, its centroid, and the family that the judge names."""

    notes: Posterior
    onsets: Tensor
    centroid_hz: float
    family: str

    @classmethod
    def of(cls, audio: Tensor, subject: Subject) -> Heard:
        """Listen to `[2, S]`."""
        return cls(note_posterior(audio), onset_envelope(audio), centroid_hz(audio), subject.judge.hears(audio))


@dataclass(frozen=True, eq=False)
class Sound:
    """A held-out take: encoded, heard as rendered, and heard through the codec."""

    take: Take
    source: PreparedSource
    original: Heard
    coded: Heard


def pairs(pieces: int) -> list[Pair]:
    """Three per piece: takes 0 to 1, 2 to 3, 4 to 5, or the other way round in every second piece."""
    return [Pair(piece, first + piece % 2, first + 1 - piece % 2) for piece in range(pieces) for first in (0, 2, 4)]


def prompt_of(pair: Pair, take: Take) -> str:
    """One of the target's names, a different one from piece to piece."""
    return take.words[pair.piece // 2 % len(take.words)]


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Figures of the judge, of the references, and of the covers at each denoise."""
    cases = pairs(subject.held_out.pieces)
    sounds = _sounds(subject, cases)
    sources = [sounds[case.piece, case.source] for case in cases]
    targets = [sounds[case.piece, case.target] for case in cases]
    taught = taught_centroids_hz([(c.piece, t.take.programs) for c, t in zip(cases, targets, strict=True)], SECONDS)
    ways = taught_ways([source.original.centroid_hz for source in sources], taught)
    yield from _judge(subject, list(sounds.values()))
    yield from _references(sources, targets, ways)
    for denoise in DENOISES:
        wishes = [
            Wish(source.source, prompt_of(case, target.take), case.piece, {"denoise": denoise})
            for case, source, target in zip(cases, sources, targets, strict=True)
        ]
        latents = subject.covers(wishes, f"covers, denoise {denoise:g}")
        covers = [Heard.of(subject.hear(latent), subject) for latent in subject.progress.each(latents, "listening")]
        yield from _figures(f"denoise {denoise:g}", sources, targets, covers, ways)


def taught_ways(sources_hz: Sequence[float], taught_hz: Sequence[Sequence[float]]) -> list[bool | None]:
    """Whether each prompt was taught to be brighter than its source; None where training's soundfonts do not agree."""
    ways = []
    for source_hz, centroids_hz in zip(sources_hz, taught_hz, strict=True):
        verdicts = {is_brighter(centroid_hz, source_hz) for centroid_hz in centroids_hz}
        ways.append(verdicts.pop() if len(verdicts) == 1 else None)
    return ways


def is_brighter(centroid_hz: float, than_hz: float) -> bool | None:
    """None where they are nearly equal."""
    if max(centroid_hz, than_hz) <= CENTROID_RATIO * min(centroid_hz, than_hz):
        return None
    return centroid_hz > than_hz


def right_ways(
    name: str, before_hz: Sequence[float], after_hz: Sequence[float], ways: Sequence[bool | None], note: str
) -> Figure:
    """Share of centroids that moved to the side that `ways` tells (True: up); those of no side are left out."""
    moves = zip(before_hz, after_hz, ways, strict=True)
    right = [(after > before) == way for before, after, way in moves if way is not None]
    return share(name, sum(right), len(right), note)


def _judge(subject: Subject, sounds: Sequence[Sound]) -> Iterator[Figure | Listing]:
    yield share("judge right on own soundfonts", *subject.judge.own_accuracy, "other pieces than it learnt, coded")
    note = "a soundfont that it and the model never heard"
    truths = [sound.take.family for sound in sounds]
    for name, heard in (
        ("originals", [sound.original.family for sound in sounds]),
        ("codec output", [sound.coded.family for sound in sounds]),
    ):
        hits = sum(a == b for a, b in zip(truths, heard, strict=True))
        yield share(f"judge right on held-out {name}", hits, len(truths), note)
    yield confusions("played (rows) and heard, held-out codec output", truths, [s.coded.family for s in sounds])


def _references(sources: Sequence[Sound], targets: Sequence[Sound], ways: Sequence[bool | None]) -> Iterator[Figure]:
    """What the true target renders reach, another piece, and the sources themselves."""
    before_hz, after_hz = ([sound.coded.centroid_hz for sound in some] for some in (sources, targets))
    yield right_ways("centroid moves the right way, true target render", before_hz, after_hz, ways, REFERENCE)
    known = sum(source.coded.family == source.take.family for source in sources)
    yield share("source's family heard in the source itself", known, len(sources), f"{REFERENCE}; through the codec")
    strangers = [sources[(index + 3) % len(sources)] for index in range(len(sources))]
    for name, others in (("true target render", targets), ("another piece", strangers)):
        both = [(source.original, other.original) for source, other in zip(sources, others, strict=True)]
        yield mean(f"note F1, {name}", [posterior_f1(a.notes, b.notes) for a, b in both], note=REFERENCE)
        yield mean(f"onset agreement, {name}", [onset_agreement(a.onsets, b.onsets) for a, b in both], note=REFERENCE)
        same = [tempo_agrees(a.onsets, b.onsets) for a, b in both]
        yield share(f"tempo agrees, {name}", sum(same), len(same), REFERENCE)


def _figures(
    label: str,
    sources: Sequence[Sound],
    targets: Sequence[Sound],
    covers: Sequence[Heard],
    ways: Sequence[bool | None],
) -> Iterator[Figure | Listing]:
    every = list(zip(sources, targets, covers, strict=True))
    wanted = [cover.family == target.take.family for _, target, cover in every]
    kept = [cover.family == source.take.family for source, _, cover in every]
    chance = f"chance {1 / len(FAMILIES):.3f}"
    yield share(f"prompted family heard, {label}", sum(wanted), len(wanted), chance)
    yield share(f"source's family heard, {label}", sum(kept), len(kept), chance)
    f1 = [posterior_f1(source.original.notes, cover.notes) for source, _, cover in every]
    yield mean(f"note F1, {label}", f1, note="against the source as rendered")
    agreement = [onset_agreement(source.original.onsets, cover.onsets) for source, _, cover in every]
    yield mean(f"onset agreement, {label}", agreement)
    same = [tempo_agrees(source.original.onsets, cover.onsets) for source, _, cover in every]
    yield share(f"tempo agrees, {label}", sum(same), len(same))
    before_hz, after_hz = [source.coded.centroid_hz for source in sources], [cover.centroid_hz for cover in covers]
    note = "as training's soundfonts agree"
    yield right_ways(f"centroid moves the right way, {label}", before_hz, after_hz, ways, note)
    towards = [target.coded.centroid_hz > hz for target, hz in zip(targets, before_hz, strict=True)]
    note = "all pairs, on whichever side of the source's"
    yield right_ways(f"centroid moves towards the target render, {label}", before_hz, after_hz, towards, note)
    families = [target.take.family for target in targets]
    yield confusions(f"prompted (rows) and heard, {label}", families, [cover.family for cover in covers])


def confusions(title: str, truths: Sequence[str], heard: Sequence[str]) -> Listing:
    """How often each family was heard where each was meant."""
    names = [family.name for family in FAMILIES]
    counts = {(truth, verdict): 0 for truth in names for verdict in names}
    for pair in zip(truths, heard, strict=True):
        counts[pair] += 1
    rows = [(truth, *(counts[truth, verdict] for verdict in names)) for truth in names]
    return Listing(title, ("", *names), rows, is_printed=False)


def _sounds(subject: Subject, cases: Sequence[Pair]) -> dict[tuple[int, int], Sound]:
    """All takes that the cases need."""
    _ = subject.judge  # trained before the counting begins
    sounds = {}
    keys = sorted({(case.piece, take) for case in cases for take in (case.source, case.target)})
    for piece, index in subject.progress.each(keys, "held-out takes"):
        audio = subject.held_out.audio(piece, index, seconds=SECONDS)
        source = subject.prepare(audio)
        take, coded = subject.held_out.takes(piece)[index], subject.hear(source.latent)
        sounds[piece, index] = Sound(take, source, Heard.of(audio, subject), Heard.of(coded, subject))
    return sounds
