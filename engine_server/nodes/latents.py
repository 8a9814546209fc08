# SPDX-License-Identifier: Apache-2.0
"""Nodes over latents."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from engine_server.diffusion.curves import CurveLike, canonical_curve
from engine_server.diffusion.gain import GainEntry, channel_gain
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.models import CHANNEL_RANGE, check_channels
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import MaskedLatent, ModelHandle
from engine_server.types import Latent, NoiseMask

IN, OUT = NodePort("latent", Wire.LATENT), NodePort("latent", Wire.LATENT)


@node(
    "Empty latent", "latent", "Silence.",
    inputs=(NodePort("model", Wire.MODEL),),
    outputs=(OUT,),
    params=(NodeParam("duration", Kind.NUMBER, 60.0, "Seconds.", min=1, max=600),),
)  # fmt: skip
class EmptyLatent(Node):
    def execute(self, *, model: ModelHandle, duration: float) -> Latent:
        return model.session.empty_latent(duration)


@node(
    "Structure", "latent",
    "Melody and rhythm of latents, as the decoder takes them for a context: what the 5 Hz codes say, or for checkpoints "
    "without a tokenizer the latents themselves.",
    inputs=(NodePort("model", Wire.MODEL), IN),
    outputs=(OUT,),
)  # fmt: skip
class SemanticExtract(Node):
    def execute(self, *, model: ModelHandle, latent: Latent) -> Latent:
        return model.session.extract_hints(latent)


@node(
    "Blend latents", "latent", "From a to b, which must be of one length.",
    inputs=(
        NodePort("a", Wire.LATENT),
        NodePort("b", Wire.LATENT),
        NodePort("blend_curve", Wire.CURVE, required=False, description="Takes the place of alpha; 0..1, stretched to a."),
    ),
    outputs=(OUT,),
    params=(NodeParam("alpha", Kind.NUMBER, 0.5, "0 is a, 1 is b.", min=0, max=1, step=0.01),),
)  # fmt: skip
class LatentBlend(Node):
    def execute(self, *, a: Latent, b: Latent, blend_curve: Tensor | None, alpha: float) -> Latent:
        share = alpha if blend_curve is None else blend_curve
        return a.blended(b, canonical_curve(share, len(a), name="blend_curve", lo=0.0, hi=1.0, resample=True))


@node(
    "Scale channels", "latent", "Scales some channels of the latent itself.",
    inputs=(IN,),
    outputs=(OUT,),
    params=(*CHANNEL_RANGE, NodeParam("scale", Kind.CURVE, 1.0, "1 changes nothing.", min=0, max=4, step=0.01)),
)  # fmt: skip
class LatentChannelScale(Node):
    def execute(self, *, latent: Latent, channel_start: int, channel_end: int, scale: CurveLike) -> Latent:
        check_channels(channel_start, channel_end)
        curve = canonical_curve(scale, len(latent), name="scale", resample=True)
        gain = channel_gain([GainEntry(channel_start, channel_end, curve)])
        return latent if gain is None else replace(latent, frames=latent.frames * gain[0])


@node(
    "Set noise mask", "latent", "Says which frames are to be generated (1) and which are to stay as they are here (0).",
    inputs=(IN, NodePort("mask", Wire.MASK)),
    outputs=(OUT,),
)  # fmt: skip
class SetLatentNoiseMask(Node):
    def execute(self, *, latent: Latent, mask: Tensor) -> Latent:
        plain = Latent(latent.frames, latent.origin_frame)
        return MaskedLatent(latent.frames, latent.origin_frame, latent.request_id, NoiseMask(mask, plain))
