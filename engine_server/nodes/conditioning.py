# SPDX-License-Identifier: Apache-2.0
"""Nodes from words and timbre to conditions, and between conditions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine_server.audio_info import KEYS
from engine_server.model import conditioning as model_conditioning
from engine_server.model.prompts import BPM_RANGE, DURATION_RANGE_S, METERS, TRACK_NAMES, TRACK_TASKS, TURBO_TASKS
from engine_server.model.timbre import TimbreReference
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import ClipHandle, ModelHandle, TextEmbed
from engine_server.types import Conditioning, Latent

LANGUAGES = (
    "ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "ht", "hu", "id",
    "is", "it", "ja", "ko", "la", "lt", "ms", "ne", "nl", "no", "pa", "pl", "pt", "ro", "ru", "sa", "sk", "sr", "sv", "sw",
    "ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "yue", "zh", "unknown",
)  # fmt: skip
"""Codes of languages that the model has sung."""
A, B = NodePort("a", Wire.CONDITIONING), NodePort("b", Wire.CONDITIONING)
OUT = NodePort("conditioning", Wire.CONDITIONING)


@node(
    "Encode text", "conditioning", "Reads tags, lyrics and metas with the text encoder.",
    inputs=(NodePort("clip", Wire.CLIP),),
    outputs=(NodePort("text_embed", Wire.TEXT_EMBED),),
    params=(
        NodeParam("tags", Kind.STRING, "", "What the music is like."),
        NodeParam("lyrics", Kind.STRING, "", "Empty for an instrumental."),
        NodeParam(
            "task_type", Kind.SELECT, "cover", f"Turbo checkpoints know {', '.join(TURBO_TASKS)}.",
            options=TURBO_TASKS + TRACK_TASKS,
        ),
        NodeParam("tracks", Kind.STRING, "", f"For {', '.join(TRACK_TASKS)}; of {', '.join(TRACK_NAMES)}.", hidden=True),
        NodeParam("bpm", Kind.INTEGER, 120, min=BPM_RANGE[0], max=BPM_RANGE[1]),
        NodeParam("duration", Kind.NUMBER, 60.0, "Seconds.", min=DURATION_RANGE_S[0], max=DURATION_RANGE_S[1]),
        NodeParam("key", Kind.SELECT, "C major", options=KEYS),
        NodeParam("time_signature", Kind.SELECT, "4", options=tuple(map(str, METERS))),
        NodeParam("language", Kind.SELECT, "en", "Of the lyrics.", options=LANGUAGES),
        NodeParam("instruction", Kind.STRING, "", "Takes the place of the task's.", hidden=True),
    ),
)  # fmt: skip
class EncodeText(Node):
    def execute(
        self, *, clip: ClipHandle, task_type: str, tracks: str, instruction: str, time_signature: str, **words: Any
    ) -> TextEmbed:
        told = {
            **words,
            "task": task_type,
            "tracks": tuple(name.strip() for name in tracks.split(",") if name.strip()),
            "instruction": instruction or None,
            "time_signature": int(time_signature),
        }
        clip.session.encode_text(**told)  # remembered by content: what follows finds words and lyrics encoded
        return TextEmbed(clip.session, told)


@node(
    "Encode conditioning", "conditioning", "Joins words and timbre to what the decoder attends to.",
    inputs=(
        NodePort("model", Wire.MODEL),
        NodePort("text_embed", Wire.TEXT_EMBED),
        NodePort("timbre_ref", Wire.LATENT, required=False, description="Whose timbre to take; silence if there is none."),
    ),
    outputs=(OUT,),
    params=(NodeParam("timbre_strength", Kind.NUMBER, 1.0, "From silence (0) to the reference (1).", min=0, max=1, step=0.01),),
)  # fmt: skip
class EncodeConditioning(Node):
    def execute(
        self, *, model: ModelHandle, text_embed: TextEmbed, timbre_ref: Latent | None, timbre_strength: float
    ) -> Conditioning:
        if text_embed.session is not model.session:
            raise ValueError("text_embed comes from another model; both must come from one Load model")
        timbre = () if timbre_ref is None else (TimbreReference(timbre_ref.frames, timbre_strength),)
        return model.session.encode_text(**text_embed.words, timbre=timbre)


@node(
    "Zero out", "conditioning", "Zeros in the shape of the first prompt; the others are dropped.",
    inputs=(NodePort("conditioning", Wire.CONDITIONING),),
    outputs=(OUT,),
)  # fmt: skip
class ConditioningZeroOut(Node):
    def execute(self, *, conditioning: Conditioning) -> Conditioning:
        return Conditioning.of(model_conditioning.zero_out(conditioning.first))


@node(
    "Average", "conditioning", "One prompt between the first ones of a and b, at the length of a.",
    inputs=(A, B),
    outputs=(OUT,),
    params=(NodeParam("weight", Kind.NUMBER, 0.5, "0 is a, 1 is b.", min=0, max=1, step=0.01),),
)  # fmt: skip
class ConditioningAverage(Node):
    def execute(self, *, a: Conditioning, b: Conditioning, weight: float) -> Conditioning:
        return a.averaged(b, weight)


@node(
    "Blend", "conditioning", "One prompt between the first ones of a and b, at the length of the longer.",
    inputs=(A, B),
    outputs=(OUT,),
    params=(NodeParam("alpha", Kind.NUMBER, 0.5, "0 is a, 1 is b.", min=0, max=1, step=0.01),),
)  # fmt: skip
class ConditioningBlend(Node):
    def execute(self, *, a: Conditioning, b: Conditioning, alpha: float) -> Conditioning:
        return a.blended(b, alpha)


@node(
    "Combine", "conditioning", "Both prompts at once: a forward for each, the velocities mixed per frame.",
    inputs=(
        A, B,
        NodePort("temporal_weight_b", Wire.MASK, required=False, description="The share of b; a gets the rest."),
    ),
    outputs=(OUT,),
    params=(
        NodeParam("step_range_start_b", Kind.NUMBER, 0.0, "Share of the schedule before b acts.", min=0, max=1, step=0.01),
        NodeParam("step_range_end_b", Kind.NUMBER, 1.0, "Share of the schedule at which b ends.", min=0, max=1, step=0.01),
    ),
)  # fmt: skip
class ConditioningCombine(Node):
    def execute(
        self,
        *,
        a: Conditioning,
        b: Conditioning,
        temporal_weight_b: Tensor | None,
        step_range_start_b: float,
        step_range_end_b: float,
    ) -> Conditioning:
        if step_range_end_b <= step_range_start_b:
            raise ValueError(f"step_range_end_b is {step_range_end_b}; more than {step_range_start_b} is expected")
        return a.combined(b, weight=temporal_weight_b, step_range=(step_range_start_b, step_range_end_b))
