# SPDX-License-Identifier: Apache-2.0
"""What each lane means to the sampler: a window's lane values as fields of a slot request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.request import LatentMask
from engine_server.diffusion.schedule import start_level
from shared_protocol.lanes import load_lanes
from shared_protocol.messages import Cost

LaneValues = Callable[[str], NDArray[np.float32]]
"""A lane's values over a window, `[T]`, by its id."""

LORA_LANES = ("lora_1", "lora_2", "lora_3", "lora_4")
_GAINS = tuple(lane for lane in load_lanes() if lane.startswith("gain_"))
ACTED_LANES = (
    "denoise", "velocity_scale", "source_blend", "ode_noise", "initial_noise", "shift", "prompt_blend", "structure", "timbre",
    "guidance", "apg_momentum", "cfg_rescale", "x0_target", "x0_target_gate", "x0_target_strength", "mask",
    "dcw_scaler", "dcw_high_scaler", "dcw_mult_blend", "dcw_mag_phase", "dcw_soft_thresh",
    *_GAINS, *LORA_LANES,
)  # fmt: skip
"""Lanes that the engine acts on in a stream; the others are declared in the table and greyed out by the client."""
CLIP_LANES = (*ACTED_LANES, "feedback", "feedback_depth")
"""Lanes that it acts on in loops and commits."""


def lane_costs(lanes: Sequence[str], *, live: bool, backend: str) -> list[Cost]:
    """What a change of each lane costs before it is heard.

    live: the lanes act on what is in flight. A backend that cannot branch beside its weights writes them anew for a LoRA; one
    that can encodes the conditions in flight again, which a hop that begins does anyway.
    """
    lora: Cost = "refit" if backend.startswith("tensorrt") else "encode" if live else "free"
    return [lora if lane in LORA_LANES else "free" for lane in lanes]


def slot_fields(lane: LaneValues, source: Tensor, hop_frame: int, *, steps: int, own_shift: float) -> dict[str, Any]:
    """Fields of `SlotRequest` that follow from the lanes of a window with source `[T, C]`.

    hop_frame: the hop's first frame within the window, where lanes of hop resolution are read. own_shift: the checkpoint's.
    A lane that stands at its neutral value leaves its feature out.
    """

    def at_hop(name: str) -> float:
        return float(lane(name)[hop_frame])

    shift = at_hop("shift") or own_shift
    denoise = lane("denoise")
    fields: dict[str, Any] = {
        "denoise": denoise,
        "steps": steps,
        "shift": shift,
        "velocity_scale": lane("velocity_scale"),
        "source_blend": lane("source_blend"),
        "ode_noise": lane("ode_noise"),
        "apg_momentum": lane("apg_momentum"),
        "cfg_rescale": lane("cfg_rescale"),
        "x0_target_gate": at_hop("x0_target_gate"),
        "channel_gain": _channel_gain(lane, source),
        "dcw": DcwSettings(
            scaler=lane("dcw_scaler"),
            high_scaler=lane("dcw_high_scaler"),
            mult_blend=at_hop("dcw_mult_blend"),
            mag_phase=at_hop("dcw_mag_phase"),
            soft_thresh=at_hop("dcw_soft_thresh"),
        ),
    }
    if ((guidance := lane("guidance")) != 1.0).any():
        fields["guidance"] = guidance
    if (share := lane("initial_noise")).min() < 1.0:
        # The lane is a share of the noise that Denoise asks for at the start; the sampler wants the amount itself.
        fields["initial_noise"] = share * np.float32(start_level(float(denoise.max()), steps, shift))
    if (mask := lane("mask")).min() < 1.0:
        fields["mask"] = LatentMask(mask, source)
    if (lock := lane("x0_target")).any():
        fields |= {"target": source, "x0_target": lock}
    elif (strength := lane("x0_target_strength")).any():
        fields |= {"target": source, "x0_target_strength": strength}
    return fields


def _channel_gain(lane: LaneValues, source: Tensor) -> Tensor | None:
    """`[T, C]` from the lanes of channel groups and of single channels, which replace their group's; None if all are 1."""
    gain = np.ones(tuple(source.shape), dtype=np.float32)
    for name in _GAINS:
        values = lane(name)
        first, _, last = name.removeprefix("gain_").partition("_")
        if last:
            gain[:, int(first) : int(last) + 1] = values[:, None]
        else:
            own = values != 1.0
            gain[own, int(first)] = values[own]
    return torch.from_numpy(gain) if (gain != 1.0).any() else None
