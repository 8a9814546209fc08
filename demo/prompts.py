# SPDX-License-Identifier: Apache-2.0
"""The same piano, bounced at full denoise with different prompts: the notes stay and the instrument changes."""

from __future__ import annotations

from pathlib import Path

import torch

from demo.picture import draw_prompts
from engine_server.files import read_audio, write_audio
from hosts.bounce import ROOT, start_bounce
from shared_protocol.codec import Floats
from training.evaluation.descriptors import centroid_hz

SOURCE = ROOT / "fixtures" / "pair_piano_8s.flac"
PROMPTS = ("music box", "string orchestra", "distorted guitar", "choir, in a big hall")
SEED = 7


def bounce_prompts(endpoint: str, out: Path) -> None:
    """A WAV for each prompt in `out`, a picture of all, and their centroids on the console."""
    out.mkdir(parents=True, exist_ok=True)
    source, rate = read_audio(SOURCE)
    write_audio(out / "source.wav", source, rate)
    results: dict[str, Floats] = {"source: piano": source}
    for prompt in PROMPTS:
        environment = {"DEMON_PROMPT": prompt, "DEMON_SEED": str(SEED)}
        job = start_bounce(
            "dawdreamer", source, endpoint=endpoint, rate=rate, lanes={"denoise": 1.0}, environment=environment
        )
        results[prompt], _ = job.finish()
        write_audio(out / f"{prompt.split(',')[0].replace(' ', '_')}.wav", results[prompt], rate)
    draw_prompts(out / "prompts.png", results, rate)
    heard = ", ".join(f"{name} {centroid_hz(torch.from_numpy(audio)):.0f} Hz" for name, audio in results.items())
    print(f"spectral centroids: {heard}")
