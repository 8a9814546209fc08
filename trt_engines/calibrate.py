# SPDX-License-Identifier: Apache-2.0
"""How large the inputs of the decoder's Linears become while a session makes music, as a ring meets them: at all noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine_server.diffusion.intake import Admission
from engine_server.files import read_audio
from engine_server.model.recipes import BLOCKS
from engine_server.session import Session
from engine_server.types import Audio, Latent, PreparedSource
from shared_protocol.errors import DemonError
from trt_engines.calibration import SCHEMA, Calibration
from trt_engines.engine_folder import file_hash

PROMPTS = ("string ensemble", "electric guitar", "warm piano", "synth lead, bright")
DENOISE = (1.0, 0.6)
"""From pure noise, and from a noisy source."""
LONGEST_S = 30
"""Of a piece, its beginning."""
DEPTH = 4
"""Generations in flight, each at another level."""


def calibrate(session: Session, checkpoint: str, music: Sequence[Path]) -> Calibration:
    """Make every piece with every prompt and denoise, and note the largest inputs of each Linear of the blocks.

    session: in float32, with its eager decoder; checkpoint: as the user named it. Raises DemonError as `read_audio` and
    `recorded`.
    """
    with recorded(session.checkpoint.transformer) as largest:
        for path in music:
            make(session, source(session, path), list(product(PROMPTS, DENOISE)), depth=DEPTH, warm="even")
    return Calibration(
        schema=SCHEMA,
        checkpoint=checkpoint,
        checkpoint_hash=session.checkpoint.content_hash,
        music={path.name: file_hash(path) for path in music},
        prompts=PROMPTS,
        denoise=DENOISE,
        steps=session.checkpoint.settings.steps,
        largest_inputs=dict(largest),
    )


def source(session: Session, path: Path) -> PreparedSource:
    """The beginning of an audio file."""
    samples, rate = read_audio(path)
    return session.prepare_source(Audio.of(samples[:, : LONGEST_S * rate], rate))


def make(
    session: Session, piece: PreparedSource, wanted: Sequence[tuple[str, float]], *, depth: int, warm: str
) -> list[Latent]:
    """Generations of a piece for pairs of prompt and denoise, each with its own seed, in this order.

    warm: see `StreamPipeline`: "even" spreads what is in flight over the levels, "burst" takes it through them together.
    """
    words = {prompt: session.encode_text(tags=prompt) for prompt, _ in wanted}
    stream = session.stream(
        source=piece,
        conditioning=words[wanted[0][0]],
        pipeline_depth=depth,
        admission=Admission.QUEUE,
        warm=warm,
    )
    try:
        numbers = []
        for seed, (prompt, denoise) in enumerate(wanted):
            stream.conditioning = words[prompt]
            numbers.append(stream.submit(denoise=denoise, seed=seed))
        finished = {latent.request_id: latent for latent in stream.drain()}
        return [finished[number] for number in numbers]
    finally:
        stream.close()


@contextmanager
def recorded(transformer: Any) -> Iterator[Mapping[str, float]]:
    """Largest absolute inputs of the blocks' Linears so far, by module path.

    A forward raises DemonError `E_CALIBRATION` for an input that is not finite.
    """
    largest: dict[str, float] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = float(inputs[0].abs().max())
        if not math.isfinite(value):
            raise DemonError(
                "E_CALIBRATION",
                f"an input of {name} is not finite: this music, or the checkpoint's weights, are damaged",
            )
        largest[name] = max(value, largest.get(name, 0.0))

    handles = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(BLOCKS)
    ]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()
