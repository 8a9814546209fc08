# SPDX-License-Identifier: Apache-2.0
"""What a track's configuration makes of the model: conditions, structure and LoRAs, at the values of the lanes that move them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.upload import upload
from engine_server.model.blends import blend
from engine_server.model.checkpoint import Checkpoint
from engine_server.model.conditioning import Condition
from engine_server.model.prompts import BPM_RANGE, METERS, Metas
from engine_server.model.timbre import TimbreReference
from engine_server.model.windows import Span
from engine_server.tracks.lanes import LORA_LANES
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.references import References
from shared_protocol.errors import DemonError
from shared_protocol.messages import Config


class TrackSound:
    """A track's configuration with the references and LoRAs that it names. One thread."""

    def __init__(self, checkpoint: Checkpoint, catalogue: LoraCatalogue, config: Config) -> None:
        self.references = References(checkpoint)
        self._checkpoint = checkpoint
        self._catalogue = catalogue
        self._absent: list[DemonError] = []
        self.version = 0
        """Grows with every configuration that differs from the one before."""
        self._config = config
        self.configure(config)

    @property
    def config(self) -> Config:
        """The configuration, which `configure` replaces."""
        return self._config

    @property
    def steps(self) -> int:
        """Denoising steps of a generation."""
        return self._config.steps or self._checkpoint.settings.steps

    def configure(self, config: Config) -> list[DemonError]:
        """Take a configuration; an `E_REFERENCE` or `E_LORA` for everything that it names and that is not here."""
        self.version += config != self._config
        self._config = config
        self.references.name(config.timbre, config.structure)
        self._absent = []
        for digest in dict.fromkeys(name for name in config.loras if name):
            try:
                self._catalogue.enable(digest)
            except DemonError as error:
                self._absent.append(error.with_traceback(None))  # whose frames would hold the track
        return self.missing()

    def missing(self) -> list[DemonError]:
        """What the configuration names and is not here."""
        return [*self._absent, *self.references.missing()]

    def is_ready(self) -> bool:
        """Whether generations may start: everything that is named is here and encoded."""
        return not self._absent and self.references.is_ready()

    def condition(self, prompt_blend: float, timbre_strength: float) -> Condition:
        """The encoded and padded prompts `[1, L, E]`: exactly A at blend 0, exactly B at 1."""
        config = self._config
        latents = self.references.timbre()
        metas = Metas(
            bpm=config.bpm if BPM_RANGE[0] <= config.bpm <= BPM_RANGE[1] else None,
            meter=config.meter if config.meter in METERS else None,
        )

        def encode(prompt: str) -> Condition:
            timbre = () if latents is None else (TimbreReference(latents, timbre_strength),)
            return self._checkpoint.condition(prompt, metas=metas, timbre=timbre)

        if prompt_blend == 0.0:
            return encode(config.prompt)
        if prompt_blend == 1.0:
            return encode(config.prompt_b)
        return blend(encode(config.prompt), encode(config.prompt_b), prompt_blend)

    def null(self, condition: Condition) -> Condition:
        """What guidance moves away from."""
        return self._checkpoint.conditioner.null(condition)

    def context(self, own: Callable[[], Tensor], amount: CurveLike, span: Span) -> Tensor:
        """The decoder's context `[T, 2C]` of a window: with the structure of the reference, or else its own one.

        own: makes the context of the window's source. amount: a number or curve `[T]`, from the silence latent (0) to the
        structure (1). span: the window's frames, counted from where the reference begins; it repeats without end.
        """
        reference = self.references.structure()
        if reference is None:
            context = own()
        else:
            frames = torch.arange(span.first, span.stop, device=reference.device) % len(reference)
            context = self._checkpoint.structure.cover_context(reference[frames])
        silence = self._checkpoint.silence
        channels = silence.shape[0]
        share = upload(torch.as_tensor(amount, dtype=torch.float32).reshape(-1, 1), silence.device)
        faded = share * context[:, :channels] + (1.0 - share) * silence
        return torch.cat([faded, context[:, channels:]], dim=-1)

    def adapters(self, amounts: tuple[float, ...]) -> Tensor | None:
        """Strengths `[A]` of the decoder's adapters from the values of the LoRA lanes; None if none acts."""
        loras = self._config.loras
        return self._catalogue.strengths(
            [(digest, amounts[k]) for k, digest in enumerate(loras[: len(LORA_LANES)]) if digest]
        )
