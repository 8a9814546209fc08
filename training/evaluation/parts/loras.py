# SPDX-License-Identifier: Apache-2.0
"""LoRAs: what tells music made with one from music made without it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engine_server.model.lora_library import shipped_loras
from shared_protocol.errors import DemonError
from training.evaluation.descriptors import SCALES, describe
from training.evaluation.generate import Wish
from training.evaluation.report import Figure, Listing, share
from training.evaluation.spectra import log_mel_distance
from training.evaluation.subject import Subject

SECONDS = 8.0
CASES = 12
DENOISE = 1.0
TOLD_SHARE = 0.9
"""A LoRA is told from none if one descriptor moves the same way in so many of the cases: 11 of 12, which seven descriptors
without any effect reach by chance in about 4 % of LoRAs; and if its median change is one that is heard (`SCALES`)."""
COLUMNS = (
    *("LoRA", "log-mel distance, nat", "most telling", "without", "with", "same way", "units of hearing"),
    *("heard with", "share", "share without"),
)


@dataclass(frozen=True)
class Effect:
    """What a LoRA does to one descriptor, over all cases."""

    name: str
    same_way: float
    """Share of the cases that move as the median does."""
    size: float
    """Of the median change, in the descriptor's unit of hearing."""

    @property
    def is_consistent(self) -> bool:
        """Whether so many cases move the same way that chance seldom does it."""
        return self.same_way >= TOLD_SHARE

    @property
    def is_told(self) -> bool:
        """Whether it tells music with the LoRA from music without."""
        return self.is_consistent and self.size >= 1.0


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Every LoRA of the folder at strength 1 against none, over the same pieces, prompts and seeds."""
    files = list(shipped_loras().values()) if subject.loras is None else loras_in(subject.loras)
    if not files:
        return
    cases = subject.effort.of(CASES, 2)
    held_out = subject.held_out
    wishes = [
        Wish(
            subject.prepare(held_out.audio(index % held_out.pieces, index // held_out.pieces, seconds=SECONDS)),
            held_out.takes(index % held_out.pieces)[(index + 1) % len(held_out.takes(0))].words[0],
            index,
            {"denoise": DENOISE},
        )
        for index in range(cases)
    ]
    plain = [subject.hear(latent) for latent in subject.covers(wishes, "without a LoRA")]
    rows, told = [], 0
    for file in files:
        subject.session.apply_lora(file)
        try:
            changed = [subject.hear(latent) for latent in subject.covers(wishes, f"LoRA {file.stem}")]
        finally:
            subject.session.remove_last_lora()
        before, after = [describe(audio) for audio in plain], [describe(audio) for audio in changed]
        effect = most_telling_effect(before, after)
        told += effect.is_told
        middles = [statistics.median(each[effect.name] for each in some) for some in (before, after)]
        distance = statistics.mean(log_mel_distance(a, b) for a, b in zip(plain, changed, strict=True))
        told_by = (effect.name, *middles, effect.same_way, effect.size)
        rows.append((file.stem, distance, *told_by, *_families(subject, plain, changed)))
    note = f"one descriptor the same way in {TOLD_SHARE:.0%} of cases, by a unit of hearing"
    yield share("LoRAs told from none", told, len(rows), note)
    yield Listing("loras", COLUMNS, rows)


def loras_in(folder: Path) -> list[Path]:
    """The LoRA files of a folder. Raises DemonError `E_FIELD` where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DemonError("E_FIELD", f"there are no LoRA files (*.safetensors) in {folder}")
    return files


def most_telling_effect(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> Effect:
    """The greatest effect among the consistent ones, or among all where none is; cases pair up."""
    effects = [
        _effect(name, [new[name] - old[name] for old, new in zip(before, after, strict=True)]) for name in SCALES
    ]
    return max(effects, key=lambda effect: (effect.is_consistent, effect.size))


def _effect(name: str, moves: Sequence[float]) -> Effect:
    middle = statistics.median(moves)
    return Effect(name, sum(move * middle > 0 for move in moves) / len(moves), abs(middle) / SCALES[name])


def _families(subject: Subject, plain: list[Tensor], changed: list[Tensor]) -> tuple[str, float, float]:
    """The family heard most often with the LoRA, and its shares with and without."""
    without, heard = ([subject.judge.hears(audio) for audio in each] for each in (plain, changed))
    family = statistics.mode(heard)
    return family, heard.count(family) / len(heard), without.count(family) / len(without)
