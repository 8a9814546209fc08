# SPDX-License-Identifier: Apache-2.0
"""Every lane that the engine acts on: neutral values leave it out, others are heard, and where they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine_server.diffusion.noise import RequestNoise
from engine_server.diffusion.request import ConditionEntry, SlotRequest
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape
from engine_server.tracks.lanes import ACTED_LANES, slot_fields
from shared_protocol.lanes import load_lanes

T, C, HOP = 20, 64, 8
ROWS = load_lanes()
ELSEWHERE = {"structure", "prompt_blend", "timbre", "lora_1", "lora_2", "lora_3", "lora_4"}
"""Acted on where context and conditions are built, not in the step: `test_track_sound.py`."""
AWAY = {"denoise": 0.4, "source_blend": 0.5, "initial_noise": 0.4, "mask": 0.5, "guidance": 3.0, "shift": 1.5}
"""Values away from neutral, for lanes whose default plus a little is not one."""
NEEDS = {
    "apg_momentum": {"guidance": 3.0},
    "cfg_rescale": {"guidance": 3.0},
    "x0_target_gate": {"x0_target": 0.8},
    "initial_noise": {"denoise": 0.8},
    "dcw_mult_blend": {"dcw_scaler": 0.05},
    "dcw_mag_phase": {"dcw_scaler": 0.05},
    "dcw_soft_thresh": {"dcw_scaler": 0.05},
}
"""Lanes that another must be on for."""


def source():
    return torch.randn(T, C, generator=torch.Generator().manual_seed(1))


class Decoder:
    """Deterministic, not linear, and attentive to its prompt."""

    def encode(self, states, mask, adapters=None):
        return (states.sum((1, 2))[:, None, None],)

    def __call__(self, x, t, context, condition, adapters=None):
        return torch.tanh(x + 0.3 * x.roll(1, dims=1) + condition[0]) + t[:, None, None]


def fields_of(**lanes):
    def lane(name):
        return np.broadcast_to(np.asarray(lanes.get(name, ROWS[name].default), np.float32), (T,)).copy()

    return slot_fields(lane, source(), HOP, steps=4, own_shift=3.0)


def result(**lanes):
    ring = Ring(Decoder(), RingShape(4, T, C, 3, 2))
    states, mask = torch.ones(3, 2), torch.ones(3, dtype=torch.bool)
    ring.admit(
        SlotRequest(
            request_id=0,
            noise=RequestNoise(5),
            context=torch.zeros(T, 2 * C),
            conditions=[ConditionEntry(states, mask)],
            negatives=[ConditionEntry(-states, mask)],
            source=source(),
            **fields_of(**lanes),
        )
    )
    finished = []
    while not finished:
        finished = ring.tick()
    return finished[0].latent


def away(name):
    """A legal value at which the lane is heard."""
    row = ROWS[name]
    return AWAY.get(name, row.default + 0.3 * (row.maximum - row.default))


@pytest.mark.parametrize("name", [lane for lane in ACTED_LANES if lane not in ELSEWHERE])
def test_a_lane_away_from_its_default_is_heard(name):
    needed = NEEDS.get(name, {})
    assert not torch.equal(result(**needed, **{name: away(name)}), result(**needed))


@pytest.mark.parametrize("name", [lane for lane in ACTED_LANES if lane not in ELSEWHERE])
def test_a_lane_drawn_at_its_default_is_as_if_it_were_not_there(name):
    needed = NEEDS.get(name, {})
    drawn = result(**needed, **{name: np.full(T, ROWS[name].default)})
    assert torch.equal(drawn, result(**needed))


def test_lanes_at_rest_leave_their_features_out():
    fields = fields_of()
    assert not {"guidance", "mask", "target", "initial_noise"} & set(fields)
    assert fields["channel_gain"] is None


@pytest.mark.parametrize(
    "name", [lane for lane in ACTED_LANES if ROWS[lane].resolution == "hop" and lane not in ELSEWHERE]
)
def test_lanes_of_hop_resolution_are_read_at_the_hops_first_frame(name):
    needed = NEEDS.get(name, {})
    at_hop = np.full(T, ROWS[name].default)
    at_hop[HOP] = away(name)
    assert torch.equal(result(**needed, **{name: at_hop}), result(**needed, **{name: away(name)}))


def test_a_masked_frame_is_the_source_exactly():
    mask = np.ones(T)
    mask[3:7] = 0.0
    latent = result(mask=mask)
    assert torch.equal(latent[3:7], source()[3:7])
    assert not torch.isclose(latent[8:], source()[8:]).all()


def test_target_lock_at_one_ends_on_the_source():
    assert torch.equal(result(x0_target=1.0), source())


def test_a_single_channels_gain_replaces_its_groups():
    group = fields_of(gain_08_15=2.0)["channel_gain"]
    both = fields_of(gain_08_15=2.0, gain_13=0.5)["channel_gain"]
    assert group[0, 13] == 2.0
    assert both[0, 13] == 0.5
    assert both[0, 12] == 2.0
    assert both[0, 16] == 1.0
