# SPDX-License-Identifier: Apache-2.0
"""ACE-Step's codec, run by engines: windows of one length, of which a caller keeps what lies within the margins."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine_server.model.codec import OobleckCodec
from engine_server.model.spectral_codec import noise_like
from engine_server.model.windows import plan_windows
from shared_protocol.errors import DemonError
from trt_engines.engine_program import EngineProgram, NoRoomError
from trt_engines.profiles import Span


class EngineCodec:
    """A `Codec` over two engines, a row at a time. It decodes `fixed_span` frames, and encodes audio of any length.

    One thread at a time; inference only.
    """

    position_period = 1

    def __init__(
        self,
        codec: OobleckCodec,
        encoder: EngineProgram,
        decoder: EngineProgram,
        *,
        encoder_frames: Span,
        fixed_span: int,
    ) -> None:
        """codec: whose engines these are. encoder_frames: latent frames whose audio the encoder's engine takes.

        Raises DemonError `E_FIELD` for a span that leaves nothing within the margins.
        """
        least = 2 * codec.decoder_margin + 1
        if fixed_span < least:
            raise DemonError(
                "E_FIELD", f"fixed_span is {fixed_span}; with this codec it must be at least {least} frames"
            )
        self.sample_rate = codec.sample_rate
        self.hop = codec.hop
        self.latent_channels = codec.latent_channels
        self.encoder_margin = codec.encoder_margin
        self.decoder_margin = codec.decoder_margin
        self.fixed_span: int | None = fixed_span
        self._encoder, self._decoder, self._encoder_frames = encoder, decoder, encoder_frames

    def encode(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Codec`. Raises DemonError as `posterior`."""
        mean, std = self.posterior(audio)
        return mean if generator is None else mean + std * noise_like(mean, generator)

    @torch.no_grad()
    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`. What is shorter than the engine's least is encoded as if silence followed it, what is longer in windows.

        Raises DemonError `E_MEMORY`, and `E_ENGINE_RUN` as `EngineProgram`.
        """
        rows = [self._posterior_of(row) for row in audio]
        return torch.stack([mean for mean, _ in rows]), torch.stack([std for _, std in rows])

    @torch.no_grad()
    def decode(self, latents: Tensor, position: int | Tensor = 0) -> Tensor:
        """See `Codec`. Raises ValueError for a length other than `fixed_span`, DemonError as `posterior`."""
        if latents.shape[1] != self.fixed_span:
            raise ValueError(f"latents has {latents.shape[1]} frames; this codec's engine takes {self.fixed_span}")
        return torch.cat([_run(self._decoder, "latents", row.T[None])["audio"].clone() for row in latents])

    def _posterior_of(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`[2, N * hop]` -> mean and deviation `[N, C]`."""
        frames = audio.shape[1] // self.hop
        span = self._encoder_frames
        if frames < span.least:
            audio = F.pad(audio, (0, (span.least - frames) * self.hop))
        if frames <= span.most:
            mean, std = self._encoded(audio)
            return mean[:frames], std[:frames]
        means, stds = [], []
        for plan in plan_windows(0, frames, frames, self.encoder_margin, fixed=span.most):
            mean, std = self._encoded(audio[:, plan.span.first * self.hop : plan.span.stop * self.hop])
            kept = slice(plan.trim_left, plan.trim_left + len(plan.keep))
            means.append(mean[kept])
            stds.append(std[kept])
        return torch.cat(means), torch.cat(stds)

    def _encoded(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        outputs = _run(self._encoder, "audio", audio[None])
        return outputs["mean"][0].T.clone(), outputs["std"][0].T.clone()


def _run(program: EngineProgram, name: str, row: Tensor) -> dict[str, Tensor]:
    try:
        bound = program.bind({name: tuple(row.shape)})
    except NoRoomError as error:
        raise DemonError(
            "E_MEMORY",
            f"the GPU's memory has no room for the codec's engine ({error}); end what else uses this GPU (see nvidia-smi), build "
            f"an engine for shorter windows, or use the eager backend",
        ) from None
    bound.inputs[name].copy_(row)
    bound.run()
    return bound.outputs
