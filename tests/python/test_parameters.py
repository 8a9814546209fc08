# SPDX-License-Identifier: Apache-2.0
"""The table of parameters tells the truth: every row is changed in a running stream, and onset and convergence are measured.

Depth 4, steps 8. A step-time value is set between two ticks; every other one is given to all requests from some tick on.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from stand_ins import C, Nonlinear, T, prompt, request, ring_shape, tensor

from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.noise import RequestNoise
from engine_server.diffusion.parameters import PARAMETERS, STEP_TIME, Propagation
from engine_server.diffusion.pipeline import StreamPipeline
from engine_server.diffusion.request import LatentMask

DEPTH, STEPS, CHANGE, TICKS = 4, 8, 20, 40
BASE = {
    "steps": STEPS, "x0_target": 0.2, "guidance": 2.0, "negatives": [prompt(8)], "denoise": 0.9,
    "conditions": [prompt(1, weight=0.5), prompt(2, weight=0.5)],
}  # fmt: skip
"""Uses what the parameters act on: source, target, guidance, several conditions."""
STEP_PROBES = {
    "velocity_scale": 1.5,
    "source_blend": 0.5,
    "sde_denoise_curve": 0.5,
    "ode_noise": 0.4,
    "x0_target": 0.7,
    "x0_target_gate": 0.8,
    "x0_target_strength": 0.9,
    "guidance": 5.0,
    "apg_momentum": 0.5,
    "cfg_rescale": 1.0,
    "temporal_weights": [0.9, 0.1],
    "channel_gain": torch.full((1, C), 1.3),
    "dcw": DcwSettings(scaler=0.3),
    "solver": "sde",
    "adapters": torch.tensor([1.0]),
}
SUBMISSION_PROBES = {
    "seed": {"noise": RequestNoise(7)},
    "denoise": {"denoise": 0.5},
    "steps": {"steps": 6},
    "shift": {"shift": 1.0},
    "timesteps": {"timesteps": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]},
    "source": {"source": tensor(9, T, C)},
    "context": {"context": tensor(9, T, 2 * C)},
    "conditions": {"conditions": [prompt(5)]},
    "negatives": {"negatives": [prompt(5)]},
    "guidance_mode": {"guidance_mode": "self"},
    "apg_norm": {"apg_norm": "time_rms"},
    "target": {"target": tensor(9, T, C)},
    "initial_noise": {"initial_noise": 0.5},
    "mask": {"mask": LatentMask(np.linspace(0, 1, T), tensor(9, T, C))},
}
STRUCTURE_PROBES = {"depth", "frames"}
DECODE_PROBES = {"vae_window"}
"""Tested with the codec, not here: the sampler neither knows nor delays them."""


def stream(*, shared=None, submitted=None, from_tick=CHANGE):
    """Every slot's state after each tick, by admission; and the completions. `submitted` replaces fields from a tick on."""
    base = dict(BASE)
    if shared and shared[0] == "x0_target_strength":
        del base["x0_target"]  # the curve would stand in its place
    pipe = StreamPipeline(Nonlinear(), ring_shape(DEPTH))
    states, finished = [], []
    for tick in range(TICKS):
        if shared and tick == from_tick:
            pipe.set_shared_curve(*shared)
        one = request(0, **base)
        if submitted and tick >= from_tick:
            one = dataclasses.replace(one, **submitted)
        pipe.submit(dataclasses.replace(one, request_id=tick))
        done = pipe.tick()
        finished += done
        flying = {slot.request_id: pipe._ring.state(slot.request_id) for slot in pipe._ring.progress()}
        states.append(flying | {each.request_id: each.latent for each in done})
    return states, finished


def differing(a, b):
    """Ids of the slots whose state differs."""
    return {number for number in a.keys() & b.keys() if not torch.equal(a[number], b[number])}


def test_every_row_of_the_table_has_a_probe_of_its_class():
    by_class = {kind: {name for name, row in PARAMETERS.items() if row.propagation is kind} for kind in Propagation}
    assert by_class[Propagation.STEP] == STEP_PROBES.keys() == set(STEP_TIME)
    assert by_class[Propagation.SUBMISSION] == SUBMISSION_PROBES.keys()
    assert by_class[Propagation.STRUCTURE] == STRUCTURE_PROBES
    assert by_class[Propagation.OUTPUT] == DECODE_PROBES


@pytest.mark.parametrize("name", STEP_PROBES)
def test_a_step_time_parameter_acts_in_the_next_tick_and_is_whole_after_as_many_ticks_as_steps(name):
    value = STEP_PROBES[name]
    plain, _ = stream(shared=(name, None))
    changed, done = stream(shared=(name, value))
    _, done_always = stream(shared=(name, value), from_tick=0)
    assert not any(differing(plain[tick], changed[tick]) for tick in range(CHANGE))
    late = {"x0_target_gate", "x0_target_strength", "x0_target"}  # act only where their weight is not 0
    heard = next(tick for tick in range(CHANGE, TICKS) if differing(plain[tick], changed[tick]))
    assert heard == CHANGE
    if name not in late:
        assert differing(plain[CHANGE], changed[CHANGE]) >= plain[CHANGE].keys() - last_step(plain, name)
    whole = [a.finished_tick for a, b in zip(done, done_always, strict=True) if torch.equal(a.latent, b.latent)]
    first_whole = min(tick for tick in whole if tick >= CHANGE)
    assert first_whole - CHANGE + 1 <= STEPS  # a slot begins in the tick of the change
    assert whole[-1] == done[-1].finished_tick


def last_step(states, name):
    """Slots in which one step cannot show the change: no noise is added on the last step; memory acts from the second."""
    finishing = states[CHANGE].keys() - states[CHANGE + 1].keys()
    starting = states[CHANGE].keys() - states[CHANGE - 1].keys()
    return {"ode_noise": finishing, "solver": finishing, "apg_momentum": starting}.get(name, set())


@pytest.mark.parametrize("name", SUBMISSION_PROBES)
def test_a_submission_time_parameter_is_whole_with_the_first_request_admitted_after_the_change(name):
    plain, _ = stream()
    changed, done = stream(submitted=SUBMISSION_PROBES[name])
    _, done_always = stream(submitted=SUBMISSION_PROBES[name], from_tick=0)
    older = set(range(CHANGE))
    assert not any(differing(a, b) & older for a, b in zip(plain, changed, strict=True))
    first = min((each for each in done if each.request_id >= CHANGE), key=lambda each: each.finished_tick)
    assert first.finished_tick - CHANGE + 1 <= 9
    reference = done_always[0].latent
    unchanged = stream()[1][0].latent
    assert not torch.equal(reference, unchanged)
    assert all(torch.equal(each.latent, reference) == (each.request_id >= CHANGE) for each in done)
    assert all(torch.equal(each.latent, reference) for each in done_always)


def test_depth_changes_between_ticks_and_loses_nothing():
    pipe = StreamPipeline(Nonlinear(), ring_shape(DEPTH))
    admitted = []
    for tick in range(TICKS):
        if tick == CHANGE:
            assert pipe.set_depth(8) == []
        pipe.submit(request(tick, steps=STEPS))
        pipe.tick()
        admitted.append({slot.request_id for slot in pipe._ring.progress()})
    assert len(admitted[CHANGE - 1]) <= DEPTH
    assert len(admitted[CHANGE + STEPS]) >= 7
    assert admitted[CHANGE - 1] - admitted[CHANGE] <= {min(admitted[CHANGE - 1])}


def test_frames_change_with_the_first_request_of_another_length_while_the_old_ones_finish():
    pipe = StreamPipeline(Nonlinear(), ring_shape(DEPTH))
    finished = []
    for tick in range(TICKS):
        pipe.submit(request(tick, T if tick < CHANGE else 17, steps=STEPS))
        finished += pipe.tick()
    lengths = [len(done.latent) for done in finished]
    assert lengths == sorted(lengths)
    first = next(done for done in finished if len(done.latent) == 17)
    assert first.finished_tick - CHANGE + 1 <= 9
    assert set(np.diff([done.finished_tick for done in finished])) == {2}


CARRIERS = {
    "seed": lambda value: request(noise=RequestNoise(int(value))),
    "denoise": lambda value: request(denoise=value),
    "steps": lambda value: request(steps=int(value)),
    "shift": lambda value: request(shift=value),
    "timesteps": lambda value: request(timesteps=[value]),
    "initial_noise": lambda value: request(initial_noise=value),
    "mask": lambda value: request(mask=LatentMask(value, tensor(1, T, C))),
}
"""How a request carries the submission-time parameters that have a range."""
BELOW = [(name, row.low - 1) for name, row in PARAMETERS.items() if row.low is not None]
ABOVE = [(name, row.high + 1) for name, row in PARAMETERS.items() if row.high is not None]
MORE_THAN_ALL = ("denoise", 2.0)  # means all of it


@pytest.mark.parametrize(("name", "value"), [each for each in BELOW + ABOVE if each != MORE_THAN_ALL])
def test_the_ranges_of_the_table_are_enforced(name, value):
    pipe = StreamPipeline(Nonlinear(), ring_shape())
    if name in STEP_TIME:
        with pytest.raises(ValueError, match=name):
            pipe.set_shared_curve(name, value)
    elif name in CARRIERS:
        with pytest.raises(ValueError, match=name):
            pipe.submit(CARRIERS[name](value))
    elif name == "depth":
        with pytest.raises(ValueError, match=name):
            pipe.set_depth(value)
    else:
        assert name in {"frames", *DECODE_PROBES}
