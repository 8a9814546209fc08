# SPDX-License-Identifier: Apache-2.0
"""Builds the training arrays: aligned renders of our own pieces, and freely licensed recordings.

    python -m training.build_data renders --work DIR
    python -m training.build_data evaluation --work DIR
    python -m training.build_data recordings --work DIR

Writes `renders.npy` (int16 [piece, take, sample, 2]) with `renders.json`, the same under `evaluation`, and
`recordings.npy` (int16 [sample, 2]) with `recordings.json`, all at 48 kHz. Renders are resumable: run it again.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from training.compose import Piece, compose
from training.effects import apply_colours, draw_colours
from training.instruments import FAMILIES, MIXED, MIXED_WORDS, Programs
from training.recordings import UFOAI_MUSIC, build_recordings
from training.render import RENDERING, SAMPLE_RATE, render_each, to_int16
from training.renders import PieceInfo, Take, write_info
from training.store import DEFAULT_WORK

SOUNDFONTS = {
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"): 0.4,  # Debian fluid-soundfont-gm, MIT
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"): 0.4,  # Debian musescore-general-soundfont-small, MIT
    Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3"): 0.2,  # Debian fluidr3mono-gm-soundfont, MIT
}  # for training, and how often each is drawn
EVALUATION_SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")  # Debian timgm6mb-soundfont, GPL-2: never trained on
HELD_OUT_SEED = 100000  # pieces from this seed on are never trained on
HELD_OUT = 24
EVALUATION_FAMILIES = 6  # per held-out piece
SILENT_END_S = 0.6  # between the last note's end and the piece's
BATCH = 40  # takes per synthesiser process


def plan_takes(seed: int, takes: int) -> list[Take]:
    """`takes` - 1 different families and, last, a mixed band; a function of the piece's seed alone."""
    rng = random.Random(f"demon-takes-{seed}")
    variants = [(family.name, rng.choice(family.variants)) for family in rng.sample(FAMILIES, takes - 1)]
    named = [(family, variant.words, variant.programs) for family, variant in variants]
    return [
        Take(family, words, draw_colours(rng), _draw_soundfont(rng), programs)
        for family, words, programs in [*named, (MIXED, MIXED_WORDS, _mixed_programs(rng))]
    ]


def _draw_soundfont(rng: random.Random) -> str:
    return rng.choices(list(SOUNDFONTS), list(SOUNDFONTS.values()))[0].name


def _mixed_programs(rng: random.Random) -> Programs:
    """Each voice from another family."""
    melody, chords, counter, bass = (rng.choice(family.variants).programs for family in rng.sample(FAMILIES, 4))
    return melody[0], chords[1], counter[2], bass[3]


def plan_evaluation(index: int) -> list[Take]:
    """Six families without colours: any two pieces in a row have all twelve."""
    order = random.Random(f"demon-evaluation-{index // 2}").sample(FAMILIES, len(FAMILIES))
    chosen = order[EVALUATION_FAMILIES * (index % 2) :][:EVALUATION_FAMILIES]
    rng = random.Random(f"demon-evaluation-variants-{index}")
    variants = [(family.name, rng.choice(family.variants)) for family in chosen]
    return [Take(family, v.words, (), EVALUATION_SOUNDFONT.name, v.programs) for family, v in variants]


def build(name: str, work: Path, seeds: list[int], takes: list[list[Take]], piece_s: float, workers: int) -> None:
    """Render all takes of all pieces into `name`.npy, batch by batch; batches of this plan that are done are skipped.

    Another plan (`plan_hash`) starts the array anew. There is a description, `name`.json, only beside a whole array.
    Takes of the evaluation soundfont stay as rendered; others get their colours. Raises FileNotFoundError without a
    soundfont that takes name, and leaves all as it is.
    """
    pieces = _compose_all(seeds, piece_s)
    shape = (len(pieces), len(takes[0]), round(piece_s * SAMPLE_RATE), 2)
    plan = plan_hash(seeds, takes, piece_s)
    log = work / f"{name}.{plan}.done"
    array = _open_array(work / f"{name}.npy", shape, log)
    done = set(log.read_text().split()) if log.exists() else set()
    paths = _soundfont_paths()
    batches = _batches(takes)

    def fill(index: int) -> None:
        cells = batches[index]
        chosen = [takes[p][t] for p, t in cells]
        programs, soundfont = [take.programs for take in chosen], paths[chosen[0].soundfont]
        audio = render_each([pieces[p] for p, _ in cells], programs, soundfont, piece_s)
        for (p, t), take, samples in zip(cells, chosen, audio, strict=True):
            is_evaluation = take.soundfont == EVALUATION_SOUNDFONT.name
            array[p, t] = samples if is_evaluation else _coloured(samples, take, seeds[p] * len(takes[p]) + t)
        with log.open("a") as lines:
            lines.write(f"{index}\n")

    in_order_of_pieces = sorted(range(len(batches)), key=lambda index: batches[index][0])
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, [index for index in in_order_of_pieces if str(index) not in done]))
    array.flush()
    held_out = sum(seed >= HELD_OUT_SEED for seed in seeds)
    infos = [PieceInfo(s, piece.bpm, piece.key, piece.beats) for s, piece in zip(seeds, pieces, strict=True)]
    write_info(work / f"{name}.json", infos, takes, held_out, plan)
    print(f"{name}: {shape}, {shape[0] * shape[1] * piece_s / 3600:.1f} h")


def plan_hash(seeds: Sequence[int], takes: Sequence[Sequence[Take]], piece_s: float) -> str:
    """Hash of what determines the audio of renders: 16 hex digits.

    These are the notes, the takes, the size of each soundfont's file (a package's update changes it, and it costs nothing
    to read) and `RENDERING`; the synthesiser's version is not among them. Raises FileNotFoundError without a soundfont.
    """
    rows = [list(row) for row in takes]
    used = {take.soundfont for row in rows for take in row}
    sizes = [(path.name, _file_size(path)) for name, path in sorted(_soundfont_paths().items()) if name in used]
    what = (RENDERING, round(piece_s * SAMPLE_RATE), list(seeds), rows, _compose_all(seeds, piece_s), sizes)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _compose_all(seeds: Sequence[int], piece_s: float) -> list[Piece]:
    return [compose(seed, piece_s - SILENT_END_S) for seed in seeds]


def _soundfont_paths() -> dict[str, Path]:
    return {path.name: path for path in (*SOUNDFONTS, EVALUATION_SOUNDFONT)}


def _file_size(path: Path) -> int:
    return path.stat().st_size


def _open_array(path: Path, shape: tuple[int, ...], log: Path) -> np.memmap:
    """The array that `log` tells of; without one, a new array, after removing all that was said of the old one."""
    if log.exists() and path.exists():
        array = np.lib.format.open_memmap(path, "r+")
        if (array.shape, array.dtype) == (shape, np.int16):
            return array
    path.with_suffix(".json").unlink(missing_ok=True)
    for stale in path.parent.glob(f"{path.stem}.*.done"):
        stale.unlink()
    return np.lib.format.open_memmap(path, "w+", np.int16, shape)


def _batches(takes: list[list[Take]]) -> list[list[tuple[int, int]]]:
    """Cells (piece, take) in groups that share a soundfont."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for p, row in enumerate(takes):
        for t, take in enumerate(row):
            groups.setdefault(take.soundfont, []).append((p, t))
    return [cells[start : start + BATCH] for cells in groups.values() for start in range(0, len(cells), BATCH)]


def _coloured(samples: np.ndarray, take: Take, seed: int) -> np.ndarray:
    return to_int16(apply_colours(samples.astype(np.float32) / 32768, take.colours, seed, SAMPLE_RATE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("renders", "evaluation", "recordings"))
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--pieces", type=int, default=1000, help="training pieces, besides the held-out ones")
    parser.add_argument("--takes", type=int, default=5, help="per piece, the last one a mixed band")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="pieces at the end kept for tests")
    parser.add_argument("--piece-seconds", type=float, default=12.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--archive", type=Path, default=UFOAI_MUSIC)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    held_out = list(range(HELD_OUT_SEED, HELD_OUT_SEED + args.held_out))
    seeds = [*range(args.pieces), *held_out]
    steps: dict[str, Callable[[], None]] = {
        "renders": lambda: build(
            "renders", args.work, seeds, [plan_takes(s, args.takes) for s in seeds], args.piece_seconds, args.workers
        ),
        "evaluation": lambda: build(
            "evaluation", args.work, held_out, [plan_evaluation(i) for i in range(args.held_out)],
            args.piece_seconds, args.workers,
        ),
        "recordings": lambda: build_recordings(args.work, args.archive),
    }  # fmt: skip
    steps[args.what]()


if __name__ == "__main__":
    main()
