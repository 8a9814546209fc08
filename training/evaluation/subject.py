# SPDX-License-Identifier: Apache-2.0
"""The checkpoint under evaluation, with what all parts need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from engine_server.model.codec import Codec
from engine_server.session import Session
from engine_server.types import Audio, Latent, PreparedSource
from shared_protocol.errors import DemonError
from training.build_data import HELD_OUT
from training.evaluation.generate import Wish, generate
from training.evaluation.material import HeldOut
from training.evaluation.progress import Silent
from training.evaluation.spectra import SAMPLE_RATE

if TYPE_CHECKING:
    from training.evaluation.judge import Judge

QUICK_PIECES = 2


@dataclass(frozen=True)
class Effort:
    """How many cases: enough for figures with useful intervals, or just enough to see that everything runs."""

    quick: bool = False

    def of(self, full: int, quick: int) -> int:
        """One of two counts."""
        return quick if self.quick else full


class Subject:
    """A session on a checkpoint, its guidance, and the music that it is judged by. Raises DemonError `E_SAMPLE_RATE`.

    guidance: scale of classifier-free guidance in covers; 1 is none. work: folder of the training's data, and of what the
    evaluation keeps between runs. loras: folder of LoRA files; None takes those of the engine.
    """

    def __init__(
        self,
        session: Session,
        *,
        work: Path,
        effort: Effort,
        guidance: float = 1.0,
        loras: Path | None = None,
        progress: Silent | None = None,
    ) -> None:
        if session.sample_rate != SAMPLE_RATE:
            raise DemonError(
                "E_SAMPLE_RATE", f"the model works at {session.sample_rate} Hz; only 48000 Hz can be evaluated"
            )
        self.session = session
        self.effort = effort
        self.work = work
        self.loras = loras
        self.guidance = guidance
        self.held_out = HeldOut(work, effort.of(HELD_OUT, QUICK_PIECES))
        self.progress = progress or Silent()

    @property
    def codec(self) -> Codec:
        """The checkpoint's."""
        return self.session.checkpoint.codec

    @cached_property
    def judge(self) -> Judge:
        """The instrument classifier, trained on what this codec makes of the training's soundfonts."""
        from training.evaluation.judge import trained_judge

        return trained_judge(self)

    def prepare(self, audio: Tensor) -> PreparedSource:
        """`[2, S]`, encoded."""
        return self.session.prepare_source(Audio.of(audio, SAMPLE_RATE))

    def hear(self, latent: Latent) -> Tensor:
        """`[2, S]` of a latent."""
        return self.session.decode_full(latent).waveform

    def covers(self, wishes: Sequence[Wish], text: str = "generating") -> list[Latent]:
        """The wishes' latents at the subject's guidance, with progress."""
        with self.progress.counting(text, len(wishes)) as advance:
            return generate(self.session, wishes, guidance=self.guidance, on_done=advance)
