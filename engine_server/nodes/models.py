# SPDX-License-Identifier: Apache-2.0
"""Nodes that load a model and add to it. Handles are immutable: what is added acts on the wire behind the node only."""

from __future__ import annotations

from typing import Any

from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.gain import CHANNELS
from engine_server.model.backends import BACKENDS, QUANTIZATIONS
from engine_server.model.checkpoint_files import EMBEDDED
from engine_server.model.placement import DTYPES
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import ClipHandle, ModelHandle, VaeHandle
from engine_server.session import Session

NO_LORA = "(none)"
MODEL_IN, MODEL_OUT = NodePort("model", Wire.MODEL), NodePort("model", Wire.MODEL)
CHANNEL_RANGE = (
    NodeParam("channel_start", Kind.INTEGER, 0, "First channel.", min=0, max=CHANNELS - 1),
    NodeParam("channel_end", Kind.INTEGER, CHANNELS - 1, "Last channel, included.", min=0, max=CHANNELS - 1),
)


@node(
    "Load model", "model",
    "Opens a session and keeps it: the same parameters give the same session, others close it and open another.",
    outputs=(MODEL_OUT, NodePort("clip", Wire.CLIP), NodePort("vae", Wire.VAE)),
    params=(
        NodeParam("config_path", Kind.STRING, EMBEDDED, "embedded, a checkpoint's folder, or owner/name of a hub."),
        NodeParam("device", Kind.SELECT, "auto", options=("auto", "cuda", "cpu")),
        NodeParam(
            "dtype", Kind.SELECT, "auto", "Of the decoder and the encoders of words.", options=("auto", *DTYPES), hidden=True
        ),
        NodeParam("decoder_backend", Kind.SELECT, "eager", options=BACKENDS),
        NodeParam("vae_backend", Kind.SELECT, "eager", options=BACKENDS),
        NodeParam("quantization", Kind.SELECT, "none", options=("none", *QUANTIZATIONS), hidden=True),
        NodeParam("trt_engines", Kind.ANY, None, "Engine files by component, for tensorrt.", hidden=True),
    ),
)  # fmt: skip
class LoadModel(Node):
    def __init__(self) -> None:
        self._opened: tuple[dict[str, Any], Session] | None = None

    def execute(self, **options: Any) -> tuple[ModelHandle, ClipHandle, VaeHandle]:
        if self._opened is None or self._opened[0] != options:
            self.close()
            self._opened = options, _open(**options)
        session = self._opened[1]
        return ModelHandle(session), ClipHandle(session), VaeHandle(session)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None


def _open(*, config_path: str, device: str, dtype: str, quantization: str, **rest: Any) -> Session:
    return Session(
        config_path,
        device=device,
        dtype=None if dtype == "auto" else dtype,
        quantization=None if quantization == "none" else quantization,
        **rest,
    )


@node(
    "LoRA", "model", "Adds a LoRA. It stays loaded, unheard by other wires, until the session is closed.",
    inputs=(MODEL_IN,),
    outputs=(MODEL_OUT,),
    params=(
        NodeParam("lora", Kind.STRING, NO_LORA, "A safetensors file, a PEFT folder, or the id of a LoRA that is known."),
        NodeParam("strength", Kind.NUMBER, 1.0, "0 is off, exactly.", min=0, max=2, step=0.05),
    ),
)  # fmt: skip
class LoRA(Node):
    def execute(self, *, model: ModelHandle, lora: str, strength: float) -> ModelHandle:
        return model if lora == NO_LORA else model.with_lora(lora, strength)


@node(
    "Channel gain", "model",
    "Scales latent channels where the decoder sees them. On channels that were scaled before, the later gain holds.",
    inputs=(MODEL_IN,),
    outputs=(MODEL_OUT,),
    params=(*CHANNEL_RANGE, NodeParam("scale", Kind.CURVE, 1.0, "1 changes nothing.", min=0, max=4, step=0.01)),
)  # fmt: skip
class ChannelGuidance(Node):
    def execute(self, *, model: ModelHandle, channel_start: int, channel_end: int, scale: CurveLike) -> ModelHandle:
        check_channels(channel_start, channel_end)
        return model.with_gain(channel_start, channel_end, scale)


@node(
    "Remove channel gain", "model", "Takes back all channel gains of this wire.",
    inputs=(MODEL_IN,),
    outputs=(MODEL_OUT,),
)  # fmt: skip
class RemoveChannelGuidance(Node):
    def execute(self, *, model: ModelHandle) -> ModelHandle:
        return ModelHandle(model.session, loras=model.loras)


def check_channels(first: int, last: int) -> None:
    """Raises ValueError for a range that is reversed."""
    if last < first:
        raise ValueError(f"channel_end is {last}; a channel from channel_start ({first}) to {CHANNELS - 1} is expected")
