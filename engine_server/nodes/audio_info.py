# SPDX-License-Identifier: Apache-2.0
"""The node that estimates tempo and key of audio."""

from __future__ import annotations

from engine_server.audio_info import audio_info
from engine_server.nodes.definition import NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.types import Audio


@node(
    "Audio info", "audio",
    "Tempo by spectral flux and autocorrelation, key by chroma against the Krumhansl-Kessler profiles (an estimate without "
    "trained weights), and length. All of them may be wired into Encode text.",
    inputs=(NodePort("audio", Wire.AUDIO),),
    outputs=(
        NodePort("bpm", Wire.NUMBER, description="60 to 200, whole; 120 where nothing repeats."),
        NodePort("key", Wire.TEXT, description="Such as A minor."),
        NodePort("duration", Wire.NUMBER, description="Seconds."),
    ),
)  # fmt: skip
class AudioInfo(Node):
    def execute(self, *, audio: Audio) -> tuple[int, str, float]:
        return audio_info(audio)
