# SPDX-License-Identifier: Apache-2.0
"""Nodes that say how to generate: schedule, solver, wavelet correction, modulation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine_server import modulation as session_modulation
from engine_server.diffusion.curves import CurveLike
from engine_server.diffusion.dcw_settings import MODES, DcwSettings
from engine_server.diffusion.guidance import DEFAULT_MOMENTUM, ApgNorm
from engine_server.diffusion.schedule import MAX_STEPS
from engine_server.nodes.definition import Kind, NodeParam, NodePort, Wire
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import Config, Solver

SCHEDULE = (
    NodeParam("steps", Kind.INTEGER, 8, min=1, max=MAX_STEPS),
    NodeParam("shift", Kind.NUMBER, 3.0, "Bends the schedule towards the noisy end.", min=0.05, max=10, step=0.05),
    NodeParam("seed", Kind.INTEGER, 42, min=0, max=2**31 - 1),
)
DCW_PARAMS = (
    NodeParam("enabled", Kind.BOOLEAN, True),
    NodeParam("mode", Kind.SELECT, "double", "Which bands are corrected; pix corrects frames.", options=MODES),
    NodeParam(
        "scaler",
        Kind.CURVE,
        0.05,
        "Strength; in mode double of the low band. In mode pix a curve must have the piece's length.",
        min=0,
        max=1,
        step=0.01,
    ),
    NodeParam("high_scaler", Kind.CURVE, 0.02, "Mode double: strength of the high band.", min=0, max=1, step=0.01),
    NodeParam("wavelet", Kind.STRING, "haar", "Any discrete wavelet of PyWavelets."),
    NodeParam("mult_blend", Kind.NUMBER, 0.0, "Share of the multiplicative correction.", min=0, max=1, step=0.01),
    NodeParam(
        "mag_phase", Kind.NUMBER, 0.0, "Share of the correction of magnitude and phase.", min=0, max=1, step=0.01
    ),
    NodeParam("soft_thresh", Kind.NUMBER, 0.0, "Differences shrink towards 0 by so much.", min=0),
)
SOLVER_OUT = NodePort("solver", Wire.SOLVER)


def denoise_param(default: float) -> NodeParam:
    """How far a generation travels, of nodes that differ in its default only."""
    return NodeParam(
        "denoise",
        Kind.CURVE,
        default,
        "How far each frame travels from the source: 0 returns it.",
        min=0,
        max=1,
        step=0.01,
    )


@node(
    "Diffusion config", "sampling", "Schedule and seed of a one-shot generation.",
    outputs=(NodePort("config", Wire.CONFIG),),
    params=(*SCHEDULE, denoise_param(1.0)),
)  # fmt: skip
class DiffusionConfig(Node):
    def execute(self, *, steps: int, shift: float, seed: int, denoise: CurveLike) -> Config:
        return Config(steps, shift, seed, denoise)


@node(
    "ODE solver", "sampling", "Euler steps.",
    inputs=(NodePort("ode_noise_curve", Wire.CURVE, required=False, description="Fresh noise after each step."),),
    outputs=(SOLVER_OUT,),
)  # fmt: skip
class OdeSolver(Node):
    def execute(self, *, ode_noise_curve: Tensor | None) -> Solver:
        return Solver("ode", ode_noise_curve)


@node(
    "SDE solver", "sampling", "Every step lands on the clean estimate, noised anew.",
    inputs=(
        NodePort(
            "sde_denoise_curve", Wire.CURVE, required=False,
            description="Freedom against the source, 1 free to 0 held; acts where there is a source.",
        ),
    ),
    outputs=(SOLVER_OUT,),
)  # fmt: skip
class SdeSolver(Node):
    def execute(self, *, sde_denoise_curve: Tensor | None) -> Solver:
        return Solver("sde", sde_denoise_curve)


@node(
    "Wavelet correction", "sampling", "Corrects each step in the wavelet domain.",
    outputs=(NodePort("dcw", Wire.DCW),),
    params=DCW_PARAMS,
)  # fmt: skip
class DCWConfig(Node):
    def execute(self, **settings: Any) -> DcwSettings:
        return DcwSettings(**settings)


@node(
    "Modulation", "sampling", "Curves that shape a generation. All are stretched to its length.",
    inputs=(
        NodePort("velocity_scale", Wire.CURVE, required=False, description="Scales the velocity after guidance."),
        NodePort(
            "initial_noise_curve", Wire.CURVE, required=False, description="Noise (1) against source (0) at the start."
        ),
        NodePort("x0_target", Wire.LATENT, required=False, description="What the clean estimate is drawn to."),
        NodePort("x0_target_curve", Wire.CURVE, required=False, description="How far, growing from the gate on."),
        NodePort("guidance_curve", Wire.CURVE, required=False, description="Guidance scale; switches guidance on."),
        NodePort(
            "chunk_mask", Wire.MASK, required=False,
            description="What the decoder is told of each frame: 0 is kept, anything else is to be made.",
        ),
    ),
    outputs=(NodePort("modulation", Wire.MODULATION),),
    params=(
        NodeParam(
            "x0_target_strength", Kind.CURVE, 0.0, "How far in the second half of the schedule; without x0_target_curve.",
            min=0, max=1,
        ),
        NodeParam("x0_target_gate", Kind.NUMBER, 0.0, "Share of the schedule before x0_target_curve acts.", min=0, max=1),
        NodeParam("apg_momentum", Kind.CURVE, DEFAULT_MOMENTUM, "Memory of the guidance direction.", hidden=True),
        NodeParam(
            "apg_norm", Kind.SELECT, "time", "What limits the guidance direction; time_rms does not weaken with length.",
            options=tuple(ApgNorm), hidden=True,
        ),
    ),
)  # fmt: skip
class Modulation(Node):
    def execute(self, *, velocity_scale: Tensor | None, **shaping: Any) -> session_modulation.Modulation:
        return session_modulation.Modulation(
            velocity_scale=1.0 if velocity_scale is None else velocity_scale, **shaping
        )
