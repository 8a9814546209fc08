# SPDX-License-Identifier: Apache-2.0
"""What each lane and each parameter of the sampler is set to, to hear what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.session import Session
from engine_server.tracks.lanes import CLIP_LANES
from engine_server.types import Conditioning, PreparedSource
from shared_protocol.lanes import load_lanes

GUIDED = {"guidance": 3.0}
CORRECTED = {"dcw_scaler": 0.3, "dcw_high_scaler": 0.3}
EXTREMES: Mapping[str, tuple[float, ...]] = {
    "velocity_scale": (0.5, 1.5),
    "feedback_depth": (2.0,),
    "guidance": (0.0, 4.0),
    "shift": (1.0, 6.0),
}
"""Settings that tell more than the ends of a lane's range."""
COMPANIONS: Mapping[str, Mapping[str, float]] = {
    "apg_momentum": GUIDED,
    "cfg_rescale": GUIDED,
    "feedback_depth": {"feedback": 1.0},
    "x0_target_gate": {"x0_target": 1.0},
    "dcw_mult_blend": CORRECTED,
    "dcw_mag_phase": CORRECTED,
    "dcw_soft_thresh": CORRECTED,
}
"""Other lanes without which a lane does nothing; they are set in what it is compared with, too."""


class Needs(StrEnum):
    """What a track must name besides its prompt, in words for the table."""

    NOTHING = ""
    TIMBRE = "another piece's timbre"
    LORAS = "the engine's LoRAs"
    LOOP = "Loop"


@dataclass(frozen=True)
class LaneProbe:
    """A lane, the settings to hear, and the other lanes and the configuration that it needs."""

    lane: str
    settings: tuple[float, ...]
    companions: Mapping[str, float] = field(default_factory=dict)
    needs: Needs = Needs.NOTHING


def lane_probes() -> list[LaneProbe]:
    """One for every lane that the engine acts on, in Loop at least: the ends of its range, or `EXTREMES`, without its default."""
    rows = load_lanes()
    probes = []
    for lane in CLIP_LANES:
        row = rows[lane]
        wanted = EXTREMES.get(lane, (row.minimum, row.maximum))
        settings = tuple(value for value in wanted if value != row.default)
        probes.append(LaneProbe(lane, settings, COMPANIONS.get(lane, {}), _needs_of(lane)))
    return probes


def _needs_of(lane: str) -> Needs:
    if lane == "timbre":
        return Needs.TIMBRE
    if lane.startswith("feedback"):
        return Needs.LOOP
    return Needs.LORAS if lane.startswith("lora_") else Needs.NOTHING


@dataclass(frozen=True, eq=False)
class Scene:
    """What parameters are tried on."""

    session: Session
    source: PreparedSource
    other: PreparedSource
    words: Conditioning
    other_words: Conditioning


Options = Mapping[str, Any]
"""Arguments of `Session.generate`."""


@dataclass(frozen=True)
class ParameterProbe:
    """A parameter, its settings by what they are called, and what it is compared with beyond the plain call."""

    parameter: str
    settings: Mapping[str, Callable[[Scene], Options]]
    base: Options = field(default_factory=dict)


_GUIDED = {"guidance_curve": 3.0}
PARAMETER_PROBES: tuple[ParameterProbe, ...] = (
    ParameterProbe("seed", {"1": lambda scene: {"seed": 1}}),
    ParameterProbe("steps", {"4": lambda scene: {"steps": 4}, "16": lambda scene: {"steps": 16}}),
    ParameterProbe("timesteps", {"1, .5, .2, .1": lambda scene: {"timesteps": (1.0, 0.5, 0.2, 0.1), "steps": 4}}),
    ParameterProbe("solver", {"sde": lambda scene: {"method": "sde"}}),
    ParameterProbe("sde_denoise_curve", {"0.3": lambda scene: {"sde_denoise_curve": 0.3}}),
    ParameterProbe("source", {"another piece": lambda scene: {"source": None, **_parts(scene.other, scene.source)}}),
    ParameterProbe("context", {"another piece": lambda scene: {"source": None, **_parts(scene.source, scene.other)}}),
    ParameterProbe("conditions", {"another prompt": lambda scene: {"conditioning": scene.other_words}}),
    ParameterProbe(
        "temporal_weights",
        {"both prompts": lambda scene: {"conditioning": scene.words.combined(scene.other_words, weight=0.5)}},
    ),
    ParameterProbe("negatives", {"another prompt": lambda scene: {"negative": scene.other_words}}, _GUIDED),
    ParameterProbe(
        "guidance_mode",
        {"self": lambda scene: {"rcfg_mode": "self"}, "initialize": lambda scene: {"rcfg_mode": "initialize"}},
        _GUIDED,
    ),
    ParameterProbe("apg_norm", {"time_rms": lambda scene: {"apg_norm": "time_rms"}}, _GUIDED),
    ParameterProbe(
        "target", {"another piece": lambda scene: {"x0_target": scene.other.latent, "x0_target_curve": 0.8}}
    ),
    ParameterProbe("dcw", {"on": lambda scene: {"dcw": DcwSettings()}}),
)
"""One for every parameter of the sampler that is no lane and can be heard."""

UNHEARD: Mapping[str, str] = {
    "adapters": "see the part `loras`",
    "channel_gain": "see the lanes gain_*",
    "depth": "changes no result, only when it comes",
    "frames": "follows from the source's length",
    "vae_window": "changes no result, only how much of it is decoded",
}
"""Parameters that have no probe of their own, and why."""


def _parts(source: PreparedSource, structure: PreparedSource) -> Options:
    return {"source_latent": source.latent, "context_latent": structure.context_latent}
