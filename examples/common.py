# SPDX-License-Identifier: Apache-2.0
"""What the examples share: some seconds of music in, a WAV out, and the embedded model between them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from engine_server.files import read_audio, write_audio
from engine_server.session import Session
from engine_server.types import Audio, Latent

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECONDS = 5


def music(name: str) -> Audio:
    """The first seconds of a recording of `fixtures`."""
    samples, rate = read_audio(FIXTURES / f"{name}.flac")
    return Audio.of(samples[:, : SECONDS * rate], rate)


def argument_parser(script: str, about: str | None) -> argparse.ArgumentParser:
    """Takes `--out`, by default a WAV called like the script."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".wav").name, help="the WAV to write")
    return parser


def write_piece(make: Callable[[Session], Latent], out: Path) -> None:
    """Make a piece with the embedded model, and write how it sounds."""
    with Session() as session:
        audio = session.decode(make(session))
    write_audio(out, audio.waveform.numpy(), audio.sample_rate)
    print(f"{out}: {audio.duration_s:g} s")


def run(make: Callable[[Session], Latent], script: str, about: str | None, arguments: Sequence[str] | None) -> None:
    """The `main` of an example that takes nothing but `--out`."""
    write_piece(make, argument_parser(script, about).parse_args(arguments).out)
