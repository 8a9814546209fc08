# SPDX-License-Identifier: Apache-2.0
"""Builds the training arrays: aligned renders of our own pieces, and excerpts of freely licensed recordings.

    python -m training.build_data renders --work DIR
    python -m training.build_data recordings --work DIR

Writes `renders.npy` (int16 [piece, take, sample, 2]) with `renders.json`, and `recordings.npy` (int16 [sample, 2])
with `recordings.json`, all at 48 kHz.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from training.compose import compose
from training.instruments import FAMILIES
from training.render import SAMPLE_RATE, render
from training.store import DEFAULT_WORK

SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),  # Debian fluid-soundfont-gm, MIT
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),  # Debian musescore-general-soundfont-small, MIT
)
# Licences as in that package's debian/copyright. Its track turinItalyM is public domain too and van_theme CC-BY, but
# both serve as test songs; the Psymong and AlexFightmare tracks are listed under GPL-2 and are left out.
UFOAI_MUSIC = Path("/usr/share/games/ufoai/base/0music.pk3")  # Debian ufoai-music 2.5-2, a zip archive
PUBLIC_DOMAIN_TRACKS = ("greecei",)
CC_BY_TRACKS = (
    "David01",
    "David02",
    "David03",
    "David04",
    "David05",
    "azrael1",
    "karlmacklin_geoscape",
    "van_geoscape",
    "van_mission",
    "van_mission2",
    "van_mission3",
    "van_mission4",
)
RECORDING_LIMIT_S = 300


def build_renders(work: Path, pieces: int, takes: int, held_out: int, piece_s: float, workers: int) -> None:
    """`takes` families per piece, each with one of the soundfonts; the last `held_out` pieces are for tests only."""
    rng = random.Random("demon-takes")
    plan = [rng.sample(range(len(FAMILIES)), takes) for _ in range(pieces)]
    fonts = [[rng.randrange(len(SOUNDFONTS)) for _ in range(takes)] for _ in range(pieces)]
    scores = [compose(seed, piece_s - 0.6) for seed in range(pieces)]
    shape = (pieces, takes, round(piece_s * SAMPLE_RATE), 2)
    array = np.lib.format.open_memmap(work / "renders.npy", "w+", np.int16, shape)

    def fill(job: tuple[int, int]) -> None:
        family, font = job
        cells = [(p, t) for p in range(pieces) for t in range(takes) if (plan[p][t], fonts[p][t]) == job]
        if cells:
            audio = render([scores[p] for p, _ in cells], FAMILIES[family], SOUNDFONTS[font], piece_s)
            for (piece, take), samples in zip(cells, audio, strict=True):
                array[piece, take] = samples

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, [(f, s) for f in range(len(FAMILIES)) for s in range(len(SOUNDFONTS))]))
    array.flush()
    families = [[FAMILIES[index].name for index in row] for row in plan]
    info = {"families": families, "soundfonts": fonts, "held_out_pieces": held_out, "piece_s": piece_s}
    (work / "renders.json").write_text(json.dumps(info, indent=1))
    print(f"renders: {shape}, {pieces * takes * piece_s / 60:.0f} min")


def build_recordings(work: Path, archive_path: Path) -> None:
    """Up to five minutes of each licensed track, resampled to 48 kHz, one after another."""
    parts, spans = [], []
    with zipfile.ZipFile(archive_path) as archive:
        for name in PUBLIC_DOMAIN_TRACKS + CC_BY_TRACKS:
            audio, rate = soundfile.read(io.BytesIO(archive.read(f"music/{name}.ogg")), always_2d=True)
            stereo = audio[: RECORDING_LIMIT_S * rate, [0, -1]]  # a mono track plays on both sides
            audio = soxr.resample(stereo, rate, SAMPLE_RATE)
            parts.append((audio.clip(-1, 1) * 32767).astype(np.int16))
            spans.append({"track": name, "samples": len(parts[-1])})
    recordings = np.concatenate(parts)
    np.save(work / "recordings.npy", recordings)
    (work / "recordings.json").write_text(json.dumps(spans, indent=1))
    print(f"recordings: {len(parts)} tracks, {len(recordings) / SAMPLE_RATE / 60:.0f} min")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("renders", "recordings"))
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--pieces", type=int, default=112)
    parser.add_argument("--takes", type=int, default=7, help="families per piece")
    parser.add_argument("--held-out", type=int, default=8, help="pieces at the end kept for tests")
    parser.add_argument("--piece-seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--archive", type=Path, default=UFOAI_MUSIC)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "renders":
        build_renders(args.work, args.pieces, args.takes, args.held_out, args.piece_seconds, args.workers)
    else:
        build_recordings(args.work, args.archive)


if __name__ == "__main__":
    main()
