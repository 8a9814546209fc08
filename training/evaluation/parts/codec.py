# SPDX-License-Identifier: Apache-2.0
"""The codec: music that it never saw, encoded and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.evaluation.codec import chord_metrics, codec_metrics, silence_peak
from training.evaluation.material import Excerpt, recordings
from training.evaluation.report import Figure, Listing, mean
from training.evaluation.subject import Subject

EXCERPT_FROM_S, EXCERPT_S = 2.0, 6.0
NAMES = {
    "note_f1": ("note F1", ""),
    "log_mel_nat": ("log-mel distance", "nat"),
    "lsd_db": ("log-spectral distance", "dB"),
    "si_sdr_db": ("SI-SDR", "dB"),
    "si_sdr_low_db": ("SI-SDR below 1 kHz", "dB"),
    "level_db": ("level gained", "dB"),
    "ild_error_db": ("level difference of the channels, error", "dB"),
    "coherence_error": ("coherence of the channels, error", ""),
    "buzz_energy_db": ("modulation at the frame rates, gained", "dB"),
    "buzz_line_db": ("buzz line at a frame rate, gained", "dB"),
}
"""Figures of `codec_metrics` by their names in the report."""


def measure(subject: Subject) -> Iterator[Figure | Listing]:
    """Figures over held-out renders and over recordings, and those of made signals."""
    window_errors = []
    for kind, excerpts in (("rendered", _rendered(subject)), ("recordings", _recorded(subject))):
        measured = [
            codec_metrics(subject.codec, excerpt.audio) for excerpt in subject.progress.each(excerpts, f"codec, {kind}")
        ]
        window_errors += [figures["window_error"] for figures in measured]
        for key, (name, unit) in NAMES.items():
            yield mean(f"{name}, {kind}", [figures[key] for figures in measured], unit)
        yield Listing(
            f"codec, {kind}",
            ("excerpt", *NAMES),
            [
                (excerpt.name, *(figures[key] for key in NAMES))
                for excerpt, figures in zip(excerpts, measured, strict=True)
            ],
            is_printed=False,
        )
    yield Figure(
        "window against whole", max(window_errors), "", len(window_errors), note="largest difference of a sample"
    )
    chord = chord_metrics(subject.codec)
    yield Figure("partials within 1 %", chord["partials_right"], note="share of a sustained chord's isolated partials")
    yield Figure("largest error of a partial", chord["partial_error_pct"], "%", note="of those that are there")
    yield Figure("unsteadiness of partials", chord["unsteadiness_db"], "dB", note="median of the level's deviation")
    yield Figure("buzz line of a chord", chord["buzz_line_db"], "dB")
    yield Figure("peak of coded silence", silence_peak(subject.codec))


def _rendered(subject: Subject) -> Sequence[Excerpt]:
    held_out = subject.held_out
    return [
        Excerpt(f"{piece} {each.family}", held_out.audio(piece, take, first_s=EXCERPT_FROM_S, seconds=EXCERPT_S))
        for piece in range(held_out.pieces)
        for take, each in enumerate(held_out.takes(piece))
    ][: subject.effort.of(1000, 3)]


def _recorded(subject: Subject) -> Sequence[Excerpt]:
    return recordings(subject.effort.of(30, 6))
