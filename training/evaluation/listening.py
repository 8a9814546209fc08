# SPDX-License-Identifier: Apache-2.0
"""Writes docs/listening.md: what prompts and lanes make of music, to look at and, with --audio, to listen to.

    python -m training.evaluation.listening [--model MODEL] [--out docs] [--audio DIR]

Every case is a call of the Session API on one of the project's fixtures; its picture shows the source above the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import soundfile
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from engine_server.model.lora_library import shipped_loras
from engine_server.session import Session
from engine_server.types import Latent, NoiseMask, PreparedSource
from training.evaluation.descriptors import describe
from training.evaluation.material import PAIRS, RECORDINGS, fixture, read
from training.evaluation.notes import note_f1
from training.evaluation.progress import Bars
from training.evaluation.report import shown
from training.evaluation.requirements import LISTENING, check_needs
from training.evaluation.run import quiet
from training.evaluation.spectra import SAMPLE_RATE, log_mel_distance
from training.evaluation.spectrograms import log_spectrogram_db, show_spectrogram
from training.evaluation.subject import Effort, Subject
from training.store import DEFAULT_WORK

SECONDS = 8.0
COLOURS = 32
PIANO, STRINGS, GUITAR = PAIRS
TURIN, THEME = RECORDINGS

Options = Callable[[PreparedSource], Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """One result to look at. `options` gives arguments of `Session.generate`; `look_for` says what should be seen."""

    slug: str
    fixture: str
    prompt: str
    look_for: str
    says: str = "denoise 1"
    """The options in words."""
    options: Options = field(default=lambda source: {})
    lora: str = ""
    """Id of one of the engine's LoRAs; the case is left out where there is none."""


def _fixed(**options: Any) -> Options:
    return lambda source: options


def _ramp(source: PreparedSource) -> Mapping[str, Any]:
    return {"denoise": torch.linspace(0, 1, len(source))}


def _repainted(source: PreparedSource) -> Mapping[str, Any]:
    mask = torch.zeros(len(source))
    mask[len(source) // 3 : 2 * len(source) // 3] = 1.0
    return {"noise_mask": NoiseMask(mask, source.latent)}


CASES: tuple[Case, ...] = (
    Case("piano-strings", PIANO, "string ensemble", "decays become sustained partials at the same pitches"),
    Case("piano-guitar", PIANO, "distorted guitar", "many dense partials up to 5 kHz"),
    Case("piano-music-box", PIANO, "music box", "few, high, ringing partials"),
    Case("strings-piano", STRINGS, "grand piano", "sharp onsets, partials that die away"),
    Case("guitar-flute", GUITAR, "flute", "few partials, little above 4 kHz"),
    Case("turin-choir", TURIN, "choir", "soft onsets, formants", "denoise 0.8", _fixed(denoise=0.8)),
    Case("turin-synth", TURIN, "saw synth", "bright and dense", "denoise 0.8", _fixed(denoise=0.8)),
    Case("theme-organ", THEME, "church organ", "steady partials", "denoise 0.8", _fixed(denoise=0.8)),
    Case("theme-marimba", THEME, "marimba", "short decays", "denoise 1"),
    Case("piano-dark", PIANO, "dark piano", "little above 2 kHz"),
    Case("piano-bright", PIANO, "bright piano", "more above 2 kHz than the source"),
    Case("piano-hall", PIANO, "piano in a hall", "tails between the notes"),
    Case("half-dose", PIANO, "string ensemble", "between piano and strings", "denoise 0.5", _fixed(denoise=0.5)),
    Case("rising-dose", PIANO, "string ensemble", "piano that turns into strings", "denoise 0 to 1", _ramp),
    Case(
        "middle-only", PIANO, "string ensemble", "the outer thirds are the source", "mask 1 in the middle", _repainted
    ),
    Case("held-back", PIANO, "string ensemble", "nearer to the source", "source_blend 0.5", _fixed(source_blend=0.5)),
    Case("slow-velocity", PIANO, "string ensemble", "noise is left", "velocity_scale 0.7", _fixed(velocity_scale=0.7)),
    Case("stirred", PIANO, "string ensemble", "restless texture", "ode_noise_curve 0.5", _fixed(ode_noise_curve=0.5)),
    Case("lofi", PIANO, "piano", "nothing above 3.5 kHz, hiss", "denoise 1, LoRA lofi", lora="lofi"),
    Case("chip", PIANO, "piano", "square waves", "denoise 1, LoRA chip", lora="chip"),
    Case("voices", PIANO, "piano", "soft onsets, long tails", "denoise 1, LoRA choir", lora="choir"),
    Case("guided", PIANO, "string ensemble", "more of the prompt", "guidance_curve 3", _fixed(guidance_curve=3.0)),
)


@dataclass(frozen=True, eq=False)
class Result:
    """A case with what was heard before and after, and the figures of both."""

    case: Case
    before: Tensor
    after: Tensor
    figures: Mapping[str, str]


def render(subject: Subject, case: Case) -> Result:
    """Make a case and measure it."""
    recording = read(fixture(case.fixture), SECONDS)
    source = subject.prepare(recording)
    options = {"seed": 1, **case.options(source)}
    if subject.guidance != 1.0:
        options.setdefault("guidance_curve", subject.guidance)
    session = subject.session
    if case.lora:
        session.apply_lora(shipped_loras()[case.lora])
    try:
        latent = session.generate(conditioning=session.encode_text(tags=case.prompt), source=source, **options)
    finally:
        session.remove_loras()
    before, after = subject.hear(Latent(source.latent.frames)), subject.hear(latent)
    return Result(
        case, before, after, {"note F1": shown(note_f1(recording, after)), **_figures(subject, before, after)}
    )


def _figures(subject: Subject, before: Tensor, after: Tensor) -> Mapping[str, str]:
    old, new = describe(before), describe(after)
    return {
        "heard as": f"{subject.judge.hears(before)}, {subject.judge.hears(after)}",
        "log-mel distance": shown(log_mel_distance(before, after)),
        **{name: f"{old[name]:.1f}, {new[name]:.1f}" for name in ("level dB", "centroid oct", "decay dB/s")},
    }


def draw(result: Result, path: Path) -> None:
    """Source above result, both on the brightness of the source. Few colours: a picture takes about 60 kB."""
    figure, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    top = float(log_spectrogram_db(result.before).max())
    show_spectrogram(axes[0], result.before, f"source: {result.case.fixture}", top)
    show_spectrogram(axes[1], result.after, f"“{result.case.prompt}”, {result.case.says}", top)
    axes[1].set_xlabel("s", fontsize=8)
    figure.tight_layout()
    drawn = BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def page(subject: Subject, results: list[Result], pictures: str) -> str:
    """The page in Markdown; `pictures`: the folder of the pictures, from the page's."""
    checkpoint = subject.session.checkpoint
    names = list(results[0].figures)
    lines = [
        "# Listening with the eyes",
        "",
        f"Made by `python -m training.evaluation.listening` from the checkpoint `{checkpoint.name}` "
        f"{checkpoint.content_hash[:12]}, guidance {subject.guidance:g}; do not edit by hand. Each picture shows the source "
        "(through the codec) above the result, on a logarithmic frequency axis. Pairs of figures, and the log-mel distance, "
        "are those of what the picture shows; note F1 is that of the result against the source as recorded. "
        "[evaluation.md](evaluation.md) defines them. `--audio DIR` writes the sounds.",
        "",
        f"| case | source | prompt | setting | look for | {' | '.join(names)} |",
        "|---" * (5 + len(names)) + "|",
    ]
    for result in results:
        case = result.case
        cells = [f"[{case.slug}](#{case.slug})", f"`{case.fixture}`", case.prompt, case.says, case.look_for]
        lines.append(f"| {' | '.join([*cells, *result.figures.values()])} |")
    for result in results:
        case = result.case
        lines += ["", f"## {case.slug}", "", f"{case.prompt}; {case.says}. Look for: {case.look_for}.", ""]
        lines.append(f"![{case.prompt}, {case.says}]({pictures}/{case.slug}.png)")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of listening.md")
    parser.add_argument("--audio", type=Path, help="folder for the sounds, source and result of each case")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance; 1 is none")
    args = parser.parse_args()
    check_needs(LISTENING)
    quiet()
    progress = Bars(Console(stderr=True))
    cases = [case for case in CASES if not case.lora or case.lora in shipped_loras()]
    (args.out / "listening").mkdir(parents=True, exist_ok=True)
    with Session(args.model) as session:
        subject = Subject(session, work=args.work, effort=Effort(), guidance=args.guidance, progress=progress)
        results = []
        for case in progress.each(cases, "cases"):
            results.append(render(subject, case))
            draw(results[-1], args.out / "listening" / f"{case.slug}.png")
            if args.audio is not None:
                args.audio.mkdir(parents=True, exist_ok=True)
                for name, audio in (("source", results[-1].before), ("result", results[-1].after)):
                    soundfile.write(args.audio / f"{case.slug}-{name}.wav", audio.T.numpy(), SAMPLE_RATE)
        (args.out / "listening.md").write_text(page(subject, results, "listening"), encoding="utf-8")


if __name__ == "__main__":
    main()
