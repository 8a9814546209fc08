# SPDX-License-Identifier: Apache-2.0
"""Lane values as hosts see them: parameters by name, from 0 to 1."""

from __future__ import annotations

from shared_protocol.lanes import load_lanes


def proportion(lane_id: str, value: float) -> float:
    """A lane's value as a host's normalised parameter."""
    lane = load_lanes()[lane_id]
    return ((value - lane.minimum) / (lane.maximum - lane.minimum)) ** lane.skew


def parameter_name(lane_id: str) -> str:
    """What a host calls the lane."""
    return load_lanes()[lane_id].name
