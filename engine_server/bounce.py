# SPDX-License-Identifier: Apache-2.0
"""`demon render`: from files and options to audio and its receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine_server.files import check_folder, read_audio, write_audio, write_json
from engine_server.progress import bounce_progress
from shared_protocol.codec import Floats
from shared_protocol.errors import DemonError
from shared_protocol.messages import LORA_SLOTS, MAX_REFERENCE_SAMPLES, Config, FieldError, make_config
from shared_protocol.timebase import frames_to_cover

if TYPE_CHECKING:
    from rich.console import Console

    from engine_server.tracks.engine import Engine


@dataclass(frozen=True)
class Job:
    """What to bounce, as the command line says it."""

    source: Path
    lanes: tuple[str, ...]
    prompt: str
    prompt_b: str
    seed: int
    steps: int
    solver: str
    loras: tuple[str, ...]
    timbre: Path | None
    structure: Path | None
    bpm: int
    meter: int
    is_loop: bool
    feedback_rounds: int


def run_bounce(job: Job, out: Path, load: Callable[[], Engine], console: Console) -> None:
    """Write `out` and its receipt. What is wrong with files and options is said before the model is loaded.

    Raises DemonError, see the functions that read, and `E_FIELD` for options out of range.
    """
    from engine_server.tracks.clip import CLIP_LIMIT
    from engine_server.tracks.curves import build_table, parse_lane
    from engine_server.tracks.lanes import ACTED_LANES, CLIP_LANES
    from engine_server.tracks.receipt import write_receipt
    from engine_server.tracks.references import reference_hash
    from engine_server.tracks.render import render
    from engine_server.tracks.render_clip import render_clip

    if job.solver not in ("ode", "sde"):
        raise DemonError("E_FIELD", f"solver is {job.solver!r}; it must be ode or sde")
    if len(job.loras) > LORA_SLOTS:
        raise DemonError("E_FIELD", f"{len(job.loras)} LoRAs are given; up to {LORA_SLOTS} are taken")
    check_folder(out)
    audio, rate = read_audio(job.source)
    timbre, structure = (None if path is None else _read_reference(path) for path in (job.timbre, job.structure))
    frames = frames_to_cover(audio.shape[1], rate)
    if job.is_loop and frames > CLIP_LIMIT:
        raise DemonError("E_CLIP", f"{job.source} has {frames} frames; a clip has {CLIP_LIMIT} at most")
    acted = CLIP_LANES if job.is_loop else ACTED_LANES
    curves = build_table(dict(parse_lane(text, frames, acted) for text in job.lanes), frames, acted)
    try:
        config: Config = make_config(
            job.prompt,
            job.seed,
            job.steps,
            job.solver,  # type: ignore[arg-type]
            prompt_b=job.prompt_b,
            timbre="" if timbre is None else reference_hash(*timbre),
            structure="" if structure is None else reference_hash(*structure),
            feedback_rounds=job.feedback_rounds,
            bpm=job.bpm,
            meter=job.meter,
        )
    except FieldError as error:
        raise DemonError("E_FIELD", str(error)) from error
    engine = load()
    config = msgspec.structs.replace(config, loras=[engine.loras.find(name) for name in job.loras])
    references = [reference for reference in (timbre, structure) if reference is not None]
    make = render_clip if job.is_loop else render
    with bounce_progress(console, frames, engine.checkpoint.settings.geometry.hop) as on_window:
        result = make(engine, audio, rate, curves, config, references=references, on_window=on_window)
    write_audio(out, result, rate)
    receipt = write_receipt(
        checkpoint=engine.checkpoint.name,
        checkpoint_hash=engine.checkpoint.content_hash,
        backend=engine.backend,
        rate=rate,
        kind="commit" if job.is_loop else "stream",
        config=config,
        source=audio,
        curves=curves,
        result=result,
    )
    write_json(out.with_suffix(".receipt.json"), receipt)
    console.print(f"{out}  {audio.shape[1] / rate:.1f} s  result {receipt.result_sha256[:16]}")


def _read_reference(path: Path) -> tuple[Floats, int]:
    audio, rate = read_audio(path)
    if audio.shape[1] > MAX_REFERENCE_SAMPLES:
        raise DemonError(
            "E_FIELD", f"{path} has {audio.shape[1]} samples; a reference has {MAX_REFERENCE_SAMPLES} at most"
        )
    return audio, rate
