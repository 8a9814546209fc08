# SPDX-License-Identifier: Apache-2.0
"""The whole evaluation: parts in turn, a table for each as it is finished, then JSON and a picture of all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine_server.model.checkpoint import Checkpoint
from engine_server.session import Session
from shared_protocol.errors import DemonError
from training.evaluation.parts.loras import loras_in
from training.evaluation.progress import Bars
from training.evaluation.report import PartResult, as_json, print_part, write_json
from training.evaluation.requirements import PARTS
from training.evaluation.subject import Effort, Subject
from training.store import DEFAULT_WORK


@dataclass(frozen=True)
class Options:
    """What is evaluated. Raises DemonError `E_FIELD` for a part that there is none of, or a folder without LoRA files."""

    model: str = "embedded"
    work: Path = DEFAULT_WORK
    parts: Sequence[str] = PARTS
    quick: bool = False
    guidance: float = 1.0
    loras: Path | None = None

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise DemonError("E_FIELD", f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
        if self.loras is not None:
            loras_in(self.loras)


def run(
    options: Options,
    console: Console,
    *,
    json: Path | None = None,
    picture: Path | None = None,
    on_part: Callable[[PartResult], object] = lambda result: None,
) -> list[PartResult]:
    """Evaluate, print, and write what is asked for. Progress goes to stderr. `on_part` hears of each part when its
    figures are written.

    Raises DemonError: what loading a checkpoint raises.
    """
    quiet()
    progress = Bars(Console(stderr=True))
    results: list[PartResult] = []
    with Session(options.model) as session:
        subject = Subject(
            session,
            work=options.work.expanduser(),
            effort=Effort(options.quick),
            guidance=options.guidance,
            loras=options.loras,
            progress=progress,
        )
        head = describe(session.checkpoint, subject)
        console.print(f"{head['model']} {head['content_hash'][:12]}, guidance {subject.guidance:g}, {head['machine']}")
        for part in options.parts:
            results.append(measure(subject, part))
            if results[-1].figures:
                print_part(console, results[-1])
            else:
                console.print(f"{part}: nothing to measure")
            if json is not None:  # after every part: a long run that breaks off leaves what it has
                write_json(json, as_json(head, results))
            on_part(results[-1])
    if picture is not None:
        from training.evaluation.picture import draw

        draw(picture, head, results)
    return results


def measure(subject: Subject, part: str) -> PartResult:
    """One part of the evaluation."""
    result = PartResult(part)
    began = time.perf_counter()
    for item in import_module(f"training.evaluation.parts.{part}").measure(subject):
        result.add(item)
    result.seconds = time.perf_counter() - began
    return result


def describe(checkpoint: Checkpoint, subject: Subject) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "model": checkpoint.name,
        "content_hash": checkpoint.content_hash,
        "backend": checkpoint.backend,
        "guidance": subject.guidance,
        "quick": subject.effort.quick,
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {version('torch')}",
        "threads": torch.get_num_threads(),
    }


def quiet() -> None:
    """Keep the libraries' progress bars and warnings from the terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    logging.getLogger("engine_server").setLevel(logging.ERROR)  # peaks above full scale are no news here
