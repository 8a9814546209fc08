# SPDX-License-Identifier: Apache-2.0
"""Nodes that draw curves and masks."""

from __future__ import annotations

from torch import Tensor

from engine_server.diffusion import shapes
from engine_server.diffusion.curves import CurveLike
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.types import Latent

LONGEST = 15000
LENGTH = NodeParam("length", Kind.INTEGER, 1500, "Frames; 25 make a second.", min=1, max=LONGEST)
CURVE_OUT = NodePort("curve", Wire.CURVE)


@node(
    "Constant", "curve", "One value throughout.",
    outputs=(CURVE_OUT,),
    params=(NodeParam("value", Kind.NUMBER, 1.0), LENGTH),
)  # fmt: skip
class CurveConstant(Node):
    def execute(self, *, value: float, length: int) -> Tensor:
        return shapes.constant(value, length)


@node(
    "Ramp", "curve", "A straight line that reaches both of its ends.",
    outputs=(CURVE_OUT,),
    params=(NodeParam("start", Kind.NUMBER, 0.0), NodeParam("end", Kind.NUMBER, 1.0), LENGTH),
)  # fmt: skip
class CurveRamp(Node):
    def execute(self, *, start: float, end: float, length: int) -> Tensor:
        return shapes.ramp(start, end, length)


@node(
    "Wave", "curve", "A periodic curve: shape * amplitude + offset.",
    outputs=(CURVE_OUT,),
    params=(
        NodeParam(
            "wave_type", Kind.SELECT, "sine", "sine and square swing from -1 to 1; pulse is a triangle from 0 to 1.",
            options=shapes.WAVES,
        ),
        NodeParam("frames_per_cycle", Kind.INTEGER, 150, min=1, max=LONGEST),
        NodeParam("amplitude", Kind.NUMBER, 1.0),
        NodeParam("offset", Kind.NUMBER, 0.0),
        LENGTH,
    ),
)  # fmt: skip
class CurveWave(Node):
    def execute(self, *, wave_type: str, frames_per_cycle: int, amplitude: float, offset: float, length: int) -> Tensor:
        return shapes.wave(wave_type, period=frames_per_cycle, length=length, amplitude=amplitude, offset=offset)


@node(
    "Curve arithmetic", "curve", "Two curves, or a curve and a number, value by value.",
    inputs=(
        NodePort("a", Wire.CURVE),
        NodePort("b", Wire.CURVE, required=False, description="As long as a, or a single value."),
    ),
    outputs=(CURVE_OUT,),
    params=(
        NodeParam("operation", Kind.SELECT, "add", options=shapes.OPERATIONS),
        NodeParam("scalar", Kind.NUMBER, 1.0, "Stands for b where none is wired."),
        NodeParam("lerp_t", Kind.NUMBER, 0.5, "lerp is (1 - lerp_t) a + lerp_t b."),
    ),
)  # fmt: skip
class CurveMath(Node):
    def execute(self, *, a: Tensor, b: Tensor | None, operation: str, scalar: float, lerp_t: float) -> Tensor:
        return shapes.combine(operation, a, scalar if b is None else b, lerp_t=lerp_t)


@node(
    "Temporal mask", "mask", "A mask as long as a latent: 1 generates a frame, 0 keeps it.",
    inputs=(
        NodePort("latent", Wire.LATENT),
        NodePort("curve", Wire.CURVE, required=False, description="Limited to 0..1, then stretched to the latent."),
    ),
    outputs=(NodePort("mask", Wire.MASK),),
    params=(NodeParam("value", Kind.NUMBER, 0.5, "Stands for the curve where none is wired.", min=0, max=1),),
)  # fmt: skip
class TemporalMask(Node):
    def execute(self, *, latent: Latent, curve: Tensor | None, value: float) -> Tensor:
        return shapes.temporal_mask(value if curve is None else curve, len(latent))


@node(
    "Invert mask", "mask", "1 - mask: what was generated is kept, and the reverse.",
    inputs=(NodePort("mask", Wire.MASK),),
    outputs=(NodePort("mask", Wire.MASK),),
)  # fmt: skip
class InvertMask(Node):
    def execute(self, *, mask: CurveLike) -> Tensor:
        return shapes.invert_mask(mask)
