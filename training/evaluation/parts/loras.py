# SPDX-License-Identifier: Apache-2.0
"""LoRAs: what tells music made with one from music made without it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
"""A LoRA is told from none if one descriptor moves the same way in so many of the cases: 11 of 12, which
seven descriptors without any effect reach by chance in about 4 % of LoRAs."""
COLUMNS = (
    *("LoRA", "log-mel distance, nat", "most telling", "without", "with", "same way"),
    *("heard with", "share", "share without"),
)


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
    rows = []
    for file in files:
        subject.session.apply_lora(file)
        try:
            changed = [subject.hear(latent) for latent in subject.covers(wishes, f"LoRA {file.stem}")]
        finally:
            subject.session.remove_last_lora()
        rows.append(_row(subject, file, plain, changed))
    told = sum(row[5] >= TOLD_SHARE for row in rows)
    yield share("LoRAs told from none", told, len(rows), f"one descriptor the same way in {TOLD_SHARE:.0%} of cases")
    yield Listing("loras", COLUMNS, rows)


def loras_in(folder: Path) -> list[Path]:
    """The LoRA files of a folder. Raises DemonError `E_FIELD` where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DemonError("E_FIELD", f"there are no LoRA files (*.safetensors) in {folder}")
    return files


def _row(subject: Subject, file: Path, plain: list[Tensor], changed: list[Tensor]) -> tuple[Any, ...]:
    before, after = [describe(audio) for audio in plain], [describe(audio) for audio in changed]

    def effect(name: str) -> tuple[float, float]:
        """Share of the cases that move the common way, and how far in units of hearing."""
        moves = [new[name] - old[name] for old, new in zip(before, after, strict=True)]
        middle = statistics.median(moves)
        return sum(move * middle > 0 for move in moves) / len(moves), abs(middle) / SCALES[name]

    name = max(SCALES, key=effect)
    distance = statistics.mean(log_mel_distance(a, b) for a, b in zip(plain, changed, strict=True))
    without, heard = ([subject.judge.hears(audio) for audio in each] for each in (plain, changed))
    family = statistics.mode(heard)
    shares = [each.count(family) / len(each) for each in (heard, without)]
    middles = [statistics.median(each[name] for each in some) for some in (before, after)]
    return file.stem, distance, name, *middles, effect(name)[0], family, *shares
