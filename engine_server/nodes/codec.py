# SPDX-License-Identifier: Apache-2.0
"""Nodes between audio and latents."""

from __future__ import annotations

from engine_server.model.windows import stream_window
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import VaeHandle
from engine_server.types import Audio, Latent

VAE, LATENT = NodePort("vae", Wire.VAE), NodePort("latent", Wire.LATENT)


@node(
    "Encode audio", "codec", "Latents of audio of any length and rate.",
    inputs=(VAE, NodePort("audio", Wire.AUDIO)),
    outputs=(LATENT,),
    params=(
        NodeParam("mode", Kind.SELECT, "mean", "The posterior's mean, or a sample of it.", options=("mean", "sample")),
        NodeParam("seed", Kind.INTEGER, 0, "Of the sample.", min=0, max=2**31 - 1),
    ),
)  # fmt: skip
class VAEEncodeAudio(Node):
    def execute(self, *, vae: VaeHandle, audio: Audio, mode: str, seed: int) -> Latent:
        return vae.session.encode_audio(audio, seed=seed if mode == "sample" else None)


@node(
    "Decode audio", "codec", "Audio of a whole latent.",
    inputs=(VAE, LATENT),
    outputs=(NodePort("audio", Wire.AUDIO),),
)  # fmt: skip
class VAEDecodeAudio(Node):
    def execute(self, *, vae: VaeHandle, latent: Latent) -> Audio:
        return vae.session.decode_full(latent)


@node(
    "Decode a window", "codec",
    "Audio of a part of a latent, equal to that part of its whole. Remembers the last latent that it decoded while it follows "
    "a playhead: where neither that nor the playhead has moved, there is no output.",
    inputs=(VAE, LATENT),
    outputs=(NodePort("audio", Wire.AUDIO, required=False),),
    params=(
        NodeParam("vae_window", Kind.NUMBER, 0.36, "Seconds, rounded up to frames; 0 for all.", min=0, max=600),
        NodeParam("t_start", Kind.NUMBER, 0.0, "Where the window begins, in seconds.", min=0),
        NodeParam("cyclic", Kind.BOOLEAN, False, "The latent is a loop, and a window may reach over its end."),
        NodeParam("follow_playhead", Kind.BOOLEAN, False, "Begin at playhead_seconds instead of t_start."),
        NodeParam("mse_skip_threshold", Kind.NUMBER, 1e-3, "Mean square below which a latent has not moved.", min=0),
        NodeParam(
            "prefetch_seconds", Kind.NUMBER, 0.1, "The playhead has not moved within the window less this time.", min=0
        ),
        NodeParam("playhead_seconds", Kind.NUMBER, 0.0, "Set anew for every call.", min=0, hidden=True),
    ),
)  # fmt: skip
class StreamVAEDecode(Node):
    def __init__(self) -> None:
        self._last: tuple[Latent, float] | None = None

    def execute(
        self,
        *,
        vae: VaeHandle,
        latent: Latent,
        vae_window: float,
        t_start: float,
        cyclic: bool,
        follow_playhead: bool,
        mse_skip_threshold: float,
        prefetch_seconds: float,
        playhead_seconds: float,
    ) -> Audio | None:
        if follow_playhead:
            if self._is_heard(latent, playhead_seconds, mse_skip_threshold, vae_window - prefetch_seconds):
                return None
            self._last = latent, playhead_seconds
        if vae_window == 0:
            return vae.session.decode_full(latent, cyclic=cyclic)
        start = playhead_seconds if follow_playhead else t_start
        window = stream_window(start, vae_window, len(latent), vae.session.sample_rate, cyclic=cyclic)
        return vae.session.decode_window(latent, window.span.first, len(window.span), cyclic=cyclic)

    def close(self) -> None:
        self._last = None

    def _is_heard(self, latent: Latent, playhead_s: float, threshold: float, reach_s: float) -> bool:
        """Whether the last window serves for this latent and playhead too."""
        if self._last is None or self._last[0].frames.shape != latent.frames.shape:
            return False
        last, last_playhead_s = self._last
        is_near = 0 <= playhead_s - last_playhead_s < reach_s
        return is_near and float((latent.frames - last.frames).square().mean()) < threshold
