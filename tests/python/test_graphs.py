# SPDX-License-Identifier: Apache-2.0
"""A forward that is recorded once per form: what it reads anew, what it reads where it lies, and what it gives away.

A graph replays over the tensors that it was recorded with. Without a GPU, a recording here runs the same function over those same
tensors, into the same result: whatever the buffers are not told, it does not hear.
"""

from __future__ import annotations

import pytest
import torch
from test_backends import draw, run, tiny_transformer
from test_dit import random_factors

from engine_server.model.adapter_stack import COLUMNS_STEP
from engine_server.model.backends import make_decoder
from engine_server.model.dit import DitForward, velocity
from engine_server.model.forms import Form
from engine_server.model.graphs import GraphedVelocity
from engine_server.model.lora import AdapterBank
from engine_server.model.static_decoder import StaticDecoder

EXACT, ADAPTED = Form(4, 40, 13), Form(4, 40, 13, COLUMNS_STEP)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Uncompiled:
    """`velocity` as it is."""

    programs = 0

    def __call__(self, *arguments):
        return velocity(*arguments)


class Tape:
    """A recorder for the CPU; see the module."""

    def __init__(self):
        self.recorded = 0

    def __call__(self, forward):
        self.recorded += 1
        result = forward()

        def replay():
            return result.copy_(forward())

        return replay


def build(model, bank=None):
    tape = Tape()
    return StaticDecoder(model, bank, run=GraphedVelocity(Uncompiled(), tape)), tape


@torch.no_grad()
def test_replays_hear_every_input_and_are_recorded_once_per_form():
    model = tiny_transformer()
    decoder, tape = build(model)
    decoder.warm_up([EXACT])
    for rows, frames, seed in ((4, 40, 1), (4, 40, 2), (2, 39, 3), (4, 45, 4), (4, 47, 5), (4, 40, 1)):
        inputs = draw(model, rows, frames, seed=seed)
        torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)
    assert tape.recorded == 2


@torch.no_grad()
def test_a_condition_that_is_written_to_in_place_is_heard():
    model = tiny_transformer()
    decoder, _ = build(model)
    x, t, context, states = draw(model, 4, 40)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    condition = decoder.encode(states, mask)
    before = decoder(x, t, context, condition)
    assert torch.equal(decoder(x, t, context, condition), before)
    for part, other in zip(condition, decoder.encode(states.flip(0), mask), strict=True):
        part.copy_(other)
    torch.testing.assert_close(
        decoder(x, t, context, condition), run(DitForward(model), (x, t, context, states.flip(0))), **TOLERANCE
    )


@torch.no_grad()
def test_a_result_is_the_callers_and_outlives_the_next_replay():
    model = tiny_transformer()
    decoder, _ = build(model)
    first = run(decoder, draw(model, 4, 40, seed=1))
    kept = first.clone()
    run(decoder, draw(model, 4, 40, seed=2))
    assert torch.equal(first, kept)


@torch.no_grad()
def test_adapters_come_and_go_under_a_recording():
    model = tiny_transformer()
    bank = AdapterBank()
    decoder, tape = build(model, bank)
    decoder.warm_up([EXACT, ADAPTED])
    inputs, eager = draw(model, 4, 40), DitForward(model, bank)
    for seed in (1, 2):
        place = bank.add(random_factors(model, seed=seed))
        strengths = torch.tensor([[0.0], [1.0], [0.3], [0.0]])
        torch.testing.assert_close(run(decoder, inputs, strengths), run(eager, inputs, strengths), **TOLERANCE)
        bank.remove(place)
        torch.testing.assert_close(run(decoder, inputs, strengths), run(eager, inputs), **TOLERANCE)
    assert tape.recorded == 2


@torch.no_grad()
def test_weights_may_change_in_place_and_where_they_move_the_forward_is_recorded_anew():
    model, other = tiny_transformer(), tiny_transformer()
    for weight in other.parameters():
        weight.mul_(0.9)
    decoder, tape = build(model)
    inputs = draw(model, 4, 40)
    run(decoder, inputs)
    expected = run(DitForward(other), inputs)
    model.load_state_dict(other.state_dict())
    decoder.weights_changed()
    torch.testing.assert_close(run(decoder, inputs), expected, **TOLERANCE)
    assert tape.recorded == 1
    linear = model.get_submodule("layers.0.mlp.up_proj")
    linear.weight.data = 2 * linear.weight.data
    decoder.weights_changed()
    moved = run(decoder, inputs)
    torch.testing.assert_close(moved, run(DitForward(model), inputs), **TOLERANCE)
    assert not torch.allclose(moved, expected, **TOLERANCE)
    assert tape.recorded == 2


@NEEDS_GPU
@torch.no_grad()
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_on_a_gpu_compiled_graphs_agree_with_eager_on_the_cpu(dtype, error):
    model = tiny_transformer()
    bank = AdapterBank()
    bank.add(random_factors(model))
    cases = []
    for rows, frames, seed in ((4, 40, 1), (4, 40, 2), (2, 39, 3), (4, 45, 4), (4, 645, 5), (4, 40, 1)):
        inputs, strengths = draw(model, rows, frames, seed=seed), torch.linspace(0, 1, rows)[:, None]
        cases.append((inputs, strengths, run(DitForward(model, bank), inputs, strengths)))
    bank.to("cuda", dtype)
    decoder = make_decoder(model.to("cuda", dtype), backend="compile", adapters=bank)
    decoder.warm_up([EXACT, ADAPTED])
    for inputs, strengths, expected in cases:
        x, t, context, states = (part.cuda() for part in inputs)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device="cuda")
        got = decoder(x, t, context, decoder.encode(states, mask, strengths.cuda()), strengths.cuda()).cpu()
        assert float((got - expected).norm() / expected.norm()) < error
