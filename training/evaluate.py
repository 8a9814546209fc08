# SPDX-License-Identifier: Apache-2.0
"""Prints the figures of MODEL_CARD.md for a checkpoint folder.

    python -m training.evaluate codec SONG... [--pictures DIR]
    python -m training.evaluate prompts --work DIR
    python -m training.evaluate transfer --work DIR [--denoise 0.6 1] [--shift 3] [--guidance 1 2]
    python -m training.evaluate speed

`prompts` and `transfer` use the held-out pieces of the work folder's renders.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Model

from engine_server.model.dit import DitForward
from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import piece_takes
from training.conditions import encode_conditions
from training.generate import generate
from training.instruments import FAMILIES, FAMILY_INDEX
from training.losses import SAMPLE_RATE, figures
from training.modules import DiffusionModules
from training.pictures import save_spectrograms
from training.probe import InstrumentProbe
from training.store import DEFAULT_WORK, EMBEDDED, Renders
from training.train_dit import FRAMES, Batch, velocity_loss

NOISE_LEVELS = (0.3, 0.5, 0.7, 0.9, 0.99)
EXCERPT_START = 100  # frames into a held-out piece


def load(folder: Path) -> tuple[SpectralCodec, DiffusionModules]:
    """The checkpoint's modules in float32."""
    kind = {"torch_dtype": torch.float32}
    codec = SpectralCodec.from_pretrained(folder / "vae", **kind).eval()
    modules = DiffusionModules(
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        Qwen3Model.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
        AceStepConditionEncoder.from_pretrained(folder / "condition_encoder", **kind).eval(),
        AceStepTransformer1DModel.from_pretrained(folder / "transformer", **kind).eval(),
    )
    return codec, modules


def read_song(path: Path, hop: int) -> Tensor:
    """[1, 2, N * hop] at 48 kHz, cut to whole frames."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = soxr.resample(audio[:, [0, -1]], rate, SAMPLE_RATE)
    return torch.from_numpy(audio[: len(audio) // hop * hop].T.copy())[None]


@torch.no_grad()
def evaluate_codec(codec: SpectralCodec, songs: list[Path], pictures: Path | None) -> None:
    """Figures of encode then decode on whole songs."""
    for path in songs:
        audio = read_song(path, codec.hop)
        decoded = codec.decode(codec.encode(audio))
        print(path.stem, " ".join(f"{key} {value:.2f}" for key, value in figures(decoded, audio).items()))
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            save_spectrograms(pictures / f"{path.stem}.png", {"original": audio[0], "reconstruction": decoded[0]})


def held_out_latents(codec: SpectralCodec, renders: Renders) -> dict[int, Tensor]:
    """Latents of every take of each held-out piece, one window long: piece -> [take, FRAMES, 64]."""
    window = slice(EXCERPT_START, EXCERPT_START + FRAMES)
    return {piece: codec.encode(piece_takes(renders, piece))[:, window] for piece in renders.held_out_pieces}


def pairs(renders: Renders) -> list[tuple[int, int, int]]:
    """Held-out (piece, source take, target take): each take to the next one, in a ring."""
    takes = renders.audio.shape[1]
    return [(piece, take, (take + 1) % takes) for piece in renders.held_out_pieces for take in range(takes)]


@torch.no_grad()
def evaluate_prompts(codec: SpectralCodec, modules: DiffusionModules, work: Path) -> None:
    """Velocity loss with the right caption, a wrong one (another family's) and the null condition."""
    renders = Renders(work)
    latents = held_out_latents(codec, renders)
    cases = pairs(renders)
    forward = DitForward(modules.transformer)
    generator = torch.Generator().manual_seed(0)
    clean = torch.stack([latents[piece][target] for piece, _, target in cases])
    source = torch.stack([latents[piece][take] for piece, take, _ in cases])
    right = [FAMILY_INDEX[renders.families[piece][target]] for piece, _, target in cases]
    wrong = [(family + 3) % len(FAMILIES) for family in right]
    noise = torch.randn(clean.shape, generator=generator)
    for level in NOISE_LEVELS:
        losses = {}
        for name, families in (("right", right), ("wrong", wrong), ("null", None)):
            captions = [FAMILIES[index].name for index in families or right]
            states, mask = encode_conditions(modules, captions)
            if families is None:
                states = modules.condition_encoder.null_condition_emb.expand_as(states)
            batch = Batch(clean, source, captions, mask[:, 0], torch.full((len(cases),), level), noise)
            losses[name] = velocity_loss(forward, batch, states, mask).mean().item()
        print(f"t {level}: " + " ".join(f"{name} {value:.4f}" for name, value in losses.items()))


@torch.no_grad()
def evaluate_transfer(
    codec: SpectralCodec, modules: DiffusionModules, work: Path, settings: list[tuple[float, float, float]]
) -> None:
    """Which instrument a probe hears, for each (denoise, shift, guidance); and the error relative to the source's."""
    renders = Renders(work)
    probe = InstrumentProbe.train(codec, renders)
    latents = held_out_latents(codec, renders)
    cases = pairs(renders)
    names = [renders.families[piece] for piece, _, _ in cases]
    targets = [row[target] for row, (_, _, target) in zip(names, cases, strict=True)]
    sources = [row[take] for row, (_, take, _) in zip(names, cases, strict=True)]
    clean = torch.stack([latents[piece][target] for piece, _, target in cases])
    source = torch.stack([latents[piece][take] for piece, take, _ in cases])
    condition = encode_conditions(modules, targets)

    def report(label: str, output: Tensor) -> None:
        heard = probe.classify(codec.decode(output))
        hits = np.mean([a == b for a, b in zip(heard, targets, strict=True)])
        stays = np.mean([a == b for a, b in zip(heard, sources, strict=True)])
        error = float((output - clean).norm() / (source - clean).norm())
        print(f"{label}: target {hits:.2f} source {stays:.2f} error/gap {error:.2f}", flush=True)

    print(f"{len(cases)} cases, chance {1 / len(FAMILIES):.2f}")
    report("true target", clean)
    report("source itself", source)
    for denoise, shift, guidance in settings:
        output = generate(modules, source, condition, denoise=denoise, shift=shift, guidance=guidance)
        report(f"denoise {denoise:g} shift {shift:g} guidance {guidance:g}", output)


@torch.no_grad()
def evaluate_speed(codec: SpectralCodec, modules: DiffusionModules) -> None:
    """Median of repeated runs on this machine with torch's current threads."""

    def median_ms(call) -> float:
        times = []
        for _ in range(9):
            started = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - started))
        return float(np.median(times))

    audio = 0.1 * torch.randn(1, 2, 10 * SAMPLE_RATE)
    latents = torch.randn(1, 250, 64)
    forward = DitForward(modules.transformer)
    x, context = torch.randn(4, FRAMES, 64), torch.randn(4, FRAMES, 128)
    states = torch.randn(4, 96, modules.condition_encoder.config.hidden_size)
    condition = forward.encode(states, torch.ones(4, 96, dtype=torch.bool))
    print(f"threads {torch.get_num_threads()}")
    print(f"encode: {10_000 / median_ms(lambda: codec.encode(audio)):.0f} times real time")
    print(f"decode: {10_000 / median_ms(lambda: codec.decode(latents)):.0f} times real time")
    transformer_ms = median_ms(lambda: forward(x, torch.rand(4), context, condition))
    print(f"transformer, 4 rows of {FRAMES} frames: {transformer_ms:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("codec", "prompts", "transfer", "speed"))
    parser.add_argument("songs", nargs="*", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=EMBEDDED)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--pictures", type=Path, help="folder for spectrogram pictures")
    parser.add_argument("--denoise", type=float, nargs="+", default=[0.3, 0.6, 1.0])
    parser.add_argument("--shift", type=float, nargs="+", default=[3.0])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    codec, modules = load(args.checkpoint)
    if args.what == "codec":
        evaluate_codec(codec, args.songs, args.pictures)
    elif args.what == "prompts":
        evaluate_prompts(codec, modules, args.work)
    elif args.what == "transfer":
        evaluate_transfer(codec, modules, args.work, list(product(args.denoise, args.shift, args.guidance)))
    else:
        evaluate_speed(codec, modules)


if __name__ == "__main__":
    main()
