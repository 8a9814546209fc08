# SPDX-License-Identifier: Apache-2.0
"""Makes the LoRAs' targets: training pieces in three styles, sample-aligned with their takes, encoded by the codec.

    python -m training.styles --work DIR

`lofi` is every take as a worn record, `choir` the piece by choirs alone in a long hall, `chip` the piece by a chiptune
synthesiser. Writes `<size>/style_<name>.pt`: normalised float16 latents [piece, take, frame, 64] of the first training
pieces, under the hash of the encoder. A file that is there already and fits is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from training import chip, lofi
from training.build_data import SILENT_END_S, SOUNDFONTS
from training.cache_latents import at_piece_level, cached_training_pieces, load_codec, load_latents
from training.compose import DRUMS, Piece, compose
from training.effects import apply_colours
from training.render import SAMPLE_RATE, render_each
from training.renders import Renders
from training.sizes import SIZES
from training.store import DEFAULT_WORK, save_atomically, state_path

PIECES = 120
CHOIR_PROGRAMS = (52, 53)  # General MIDI from 0: choir aahs, voice oohs
CHOIR_BATCH = 20  # pieces per synthesiser process, all by one soundfont
LOG_EVERY = 40
Style = Callable[[Renders, range], Iterator[np.ndarray]]
"""Yields each piece's takes, float32 [take, samples, 2] at 48 kHz and any level."""


def render_lofi(renders: Renders, pieces: range) -> Iterator[np.ndarray]:
    """All takes of each piece, each on a record of its own."""
    for piece in pieces:
        takes, seed = renders.audio[piece].astype(np.float32) / 32768, renders.pieces[piece].seed
        yield np.stack([lofi.apply(take, seed * len(takes) + t, SAMPLE_RATE) for t, take in enumerate(takes)])


def render_choir(renders: Renders, pieces: range) -> Iterator[np.ndarray]:
    """One take of each piece: its notes without the drums, sung."""
    soundfonts, seconds = list(SOUNDFONTS), _seconds(renders)
    for number, start in enumerate(range(0, len(pieces), CHOIR_BATCH)):
        chosen = pieces[start : start + CHOIR_BATCH]
        scores = [_without_drums(_notes(renders, piece)) for piece in chosen]
        programs = [(CHOIR_PROGRAMS[piece % len(CHOIR_PROGRAMS)],) * 4 for piece in chosen]
        audio = render_each(scores, programs, soundfonts[number % len(soundfonts)], seconds)
        for piece, samples in zip(chosen, audio, strict=True):
            yield _in_long_hall(samples.astype(np.float32) / 32768, renders.pieces[piece].seed)[None]


def render_chip(renders: Renders, pieces: range) -> Iterator[np.ndarray]:
    """One take of each piece."""
    for piece in pieces:
        yield chip.render(_notes(renders, piece), _seconds(renders))[None]


STYLES: dict[str, Style] = {"lofi": render_lofi, "choir": render_choir, "chip": render_chip}


def _seconds(renders: Renders) -> float:
    return float(renders.audio.shape[2] / SAMPLE_RATE)


def _notes(renders: Renders, piece: int) -> Piece:
    return compose(renders.pieces[piece].seed, _seconds(renders) - SILENT_END_S)


def _without_drums(piece: Piece) -> Piece:
    return replace(piece, notes=[note for note in piece.notes if note.voice != DRUMS])


def _in_long_hall(audio: np.ndarray, seed: int) -> np.ndarray:
    """In a hall within a hall: twice as far away as any take with the colour `hall`, and longer in dying away."""
    for salt in (1_000_003, 2_000_003):
        audio = apply_colours(audio, ("hall",), seed + salt, SAMPLE_RATE)
    return audio


@torch.no_grad()
def build(name: str, codec: SpectralCodec, work: Path, size: str, identity: str, pieces: range) -> None:
    """Render and encode one style. `codec` must have the latents' statistics set (`load_latents`); `identity` is theirs."""
    path = state_path(work, size, f"style_{name}")
    if path.exists():
        kept = torch.load(path)
        if (kept["identity"], kept["pieces"]) == (identity, len(pieces)):
            return
    renders = Renders(work)
    latents: list[Tensor] = []
    for piece, takes in zip(pieces, STYLES[name](renders, pieces), strict=True):
        latents.append(codec.encode(at_piece_level(takes, renders.pieces[piece].seed)).half())
        if len(latents) % LOG_EVERY == 0:
            print(f"{name}: {len(latents)}/{len(pieces)} pieces", flush=True)
    save_atomically({"identity": identity, "pieces": len(pieces), "latents": torch.stack(latents)}, path)


def load_style(name: str, work: Path, size: str, identity: str) -> Tensor:
    """Latents [piece, take, frame, 64] of the first training pieces. Raises ValueError if they go with other latents."""
    state = torch.load(state_path(work, size, f"style_{name}"))
    if state["identity"] != identity:
        raise ValueError(f"style_{name}.pt goes with other latents: run training.styles again")
    latents: Tensor = state["latents"]
    return latents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("styles", nargs="*", metavar="STYLE", help=f"of {', '.join(STYLES)}; all by default")
    parser.add_argument("--pieces", type=int, default=PIECES, help="how many training pieces, from the first")
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    if unknown := set(args.styles) - set(STYLES):
        parser.error(f"unknown style {', '.join(sorted(unknown))}")
    torch.set_num_threads(args.threads)
    codec = load_codec(args.work, args.size, "codec")
    latents = load_latents(codec, args.work, args.size)
    pieces = cached_training_pieces(latents, Renders(args.work))[: args.pieces]
    for name in args.styles or STYLES:
        build(name, codec, args.work, args.size, latents.identity, pieces)


if __name__ == "__main__":
    main()
