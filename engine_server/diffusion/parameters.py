# SPDX-License-Identifier: Apache-2.0
"""The table of all parameters: name, when a change is heard, kind, range, default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine_server.diffusion.guidance import DEFAULT_MOMENTUM
from engine_server.diffusion.schedule import MAX_STEPS


class Propagation(StrEnum):
    """When a change is heard."""

    OUTPUT = "output"
    """With the next decode."""
    STEP = "step"
    """Onset: the next tick, in every slot. Converged: when the slots that saw it from their first step finish."""
    SUBMISSION = "submission"
    """With the first completion of a request that was admitted after the change."""
    STRUCTURE = "structure"
    """Between ticks; converged after a warm-up."""


@dataclass(frozen=True)
class Parameter:
    """One row of the table of parameters."""

    name: str
    propagation: Propagation
    kind: str
    """curve (a scalar or a value per frame), number, integer, choice, latent, condition, or settings."""
    low: float | None
    high: float | None
    default: float | str | None
    help: str


def _table(
    *rows: tuple[str, Propagation, str, float | None, float | None, float | str | None, str],
) -> dict[str, Parameter]:
    return {row[0]: Parameter(*row) for row in rows}


_STEP, _SUBMISSION = Propagation.STEP, Propagation.SUBMISSION
PARAMETERS: Mapping[str, Parameter] = _table(
    ("velocity_scale", _STEP, "curve", None, None, 1.0, "Scales the velocity after guidance."),
    ("source_blend", _STEP, "curve", 0.0, 1.0, 1.0, "Share of the clean estimate against the source."),
    ("sde_denoise_curve", _STEP, "curve", 0.0, 1.0, None, "source_blend, and the SDE solver, on slots with a source."),
    ("ode_noise", _STEP, "curve", None, None, 0.0, "Fresh noise after each ODE step, times the level."),
    ("x0_target", _STEP, "curve", None, None, None, "Weight of the x0 target, growing from the gate on."),
    ("x0_target_gate", _STEP, "number", 0.0, 1.0, 0.0, "Share of the schedule before the x0 target acts."),
    ("x0_target_strength", _STEP, "curve", None, None, 0.0, "Weight of the x0 target in the second half."),
    ("guidance", _STEP, "curve", None, None, 1.0, "Guidance scale, on slots that have guidance."),
    ("apg_momentum", _STEP, "curve", None, None, DEFAULT_MOMENTUM, "Memory of the guidance direction."),
    ("cfg_rescale", _STEP, "curve", 0.0, 1.0, 0.0, "Share of the guidance's loudness-preserving rescale."),
    ("temporal_weights", _STEP, "curve", 0.0, None, None, "Weights of a slot's conditions, primary first."),
    ("channel_gain", _STEP, "latent", None, None, None, "Gain per channel of what the decoder hears."),
    ("dcw", _STEP, "settings", None, None, None, "Wavelet correction, on slots without settings of their own."),
    ("solver", _STEP, "choice", None, None, "ode", "ode or sde."),
    ("adapters", _STEP, "curve", None, None, None, "Strength of each LoRA, on slots without strengths of their own."),
    ("seed", _SUBMISSION, "integer", 0, None, None, "Where the noise comes from."),
    ("denoise", _SUBMISSION, "curve", 0.0, None, 1.0, "How far each frame travels from the source; 1 and above is all the way."),
    ("steps", _SUBMISSION, "integer", 1, MAX_STEPS, 8, "Steps of the schedule."),
    ("shift", _SUBMISSION, "number", 0.0, None, 3.0, "Bends the schedule towards the noisy end."),
    ("timesteps", _SUBMISSION, "curve", 0.0, 1.0, None, "The schedule's levels, given explicitly."),
    ("source", _SUBMISSION, "latent", None, None, None, "What is transformed."),
    ("context", _SUBMISSION, "latent", None, None, None, "Structure hints and chunk mask."),
    ("conditions", _SUBMISSION, "condition", None, None, None, "Prompts, with their step ranges."),
    ("negatives", _SUBMISSION, "condition", None, None, None, "What guidance moves away from."),
    ("guidance_mode", _SUBMISSION, "choice", None, None, "full", "off, full, initialize or self."),
    ("apg_norm", _SUBMISSION, "choice", None, None, "time", "time or time_rms."),
    ("target", _SUBMISSION, "latent", None, None, None, "The x0 target."),
    ("initial_noise", _SUBMISSION, "curve", 0.0, None, None, "Noise against source in the initial state."),
    ("mask", _SUBMISSION, "curve", 0.0, 1.0, None, "1 generates a frame, 0 preserves it."),
    ("depth", Propagation.STRUCTURE, "integer", 1, None, None, "Slots of the ring."),
    ("frames", Propagation.STRUCTURE, "integer", 1, None, None, "Length of the window."),
    ("vae_window", Propagation.OUTPUT, "number", 0.0, None, 0.0, "Seconds that a decode covers; 0 is all."),
)  # fmt: skip
STEP_TIME = tuple(name for name, row in PARAMETERS.items() if row.propagation is Propagation.STEP)
"""Names that can be shared."""
