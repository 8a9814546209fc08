# SPDX-License-Identifier: Apache-2.0
"""Forms of the compiled decoder: filled up and cut without a trace, compiled by the warm-up and by nothing that comes after.

torch's tracing is real here and says when it would compile; what it traced then runs as it is, since compiling takes its time
and `test_backends.py` does it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_backends import draw, run, tiny_transformer, with_row_of
from test_dit import random_factors

from engine_server.cli import report_form
from engine_server.diffusion.rows import RingShape
from engine_server.model import compiled, static_decoder
from engine_server.model.adapter_stack import COLUMNS_STEP, AdapterStack
from engine_server.model.compiled import CompiledVelocity
from engine_server.model.dit import DitForward
from engine_server.model.forms import Form, forms_of_ring, size_class
from engine_server.model.lora import AdapterBank
from engine_server.model.static_decoder import StaticDecoder
from engine_server.serve.warm_up import warm_up
from engine_server.session import Session
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.render import render
from shared_protocol.errors import DemonError
from shared_protocol.messages import make_config

TOKENS = 13
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
RING = RingShape(depth=2, frames=40, channels=64, tokens=TOKENS, width=32)
EXACT, ADAPTED = Form(4, 40, TOKENS), Form(4, 40, TOKENS, COLUMNS_STEP)


class Traced(CompiledVelocity):
    """What torch traced, not compiled."""

    def __init__(self):
        super().__init__(compiler=lambda graph, _: graph.forward)


def said(caplog):
    """Our own warnings; torch logs its tracing too."""
    return [record.getMessage() for record in caplog.records if record.name == "demon.engine"]


def build(model=None, bank=None):
    traced = Traced()
    return StaticDecoder(model or tiny_transformer(), bank, run=traced), traced


@given(frames=st.integers(1, 6000))
def test_a_size_class_is_even_holds_the_length_and_wastes_less_than_a_quarter(frames):
    wide = size_class(frames)
    assert wide % 2 == 0
    assert frames <= wide
    assert wide == 32 or wide < 1.25 * frames + 2
    assert size_class(wide) == wide


def test_a_ring_has_one_form_for_every_number_of_columns():
    shape = RingShape(depth=3, frames=139, channels=64, tokens=96, width=128)
    assert forms_of_ring(shape, columns=(0, 64)) == [Form(4, 140, 96), Form(4, 140, 96, 64)]
    assert forms_of_ring(shape, batch=5) == [Form(8, 140, 96)]


def test_what_a_warm_up_compiled_never_compiles_again_and_says_how_far_it_is():
    bank = AdapterBank()
    model = tiny_transformer()
    decoder, traced = build(model, bank)
    heard = []
    decoder.warm_up([EXACT, ADAPTED], heard.append)
    assert [(ready.form, ready.number, ready.of) for ready in heard] == [(EXACT, 1, 2), (ADAPTED, 2, 2)]
    assert all(ready.seconds > 0 for ready in heard)
    assert traced.programs == 2
    decoder.warm_up([EXACT, ADAPTED])
    for seed in range(3):
        bank.add(random_factors(model, seed=seed))
        for rows in (1, 3, 4):
            run(decoder, draw(model, rows, 40, seed=seed))
            run(decoder, draw(model, rows, 39, seed=seed), torch.rand(rows, bank.size))
    bank.remove(1)
    run(decoder, draw(model, 4, 40), torch.rand(4, bank.size))
    assert traced.programs == 2


def test_whoever_started_the_server_reads_how_far_the_warm_up_is(capsys):
    decoder, _ = build(bank=AdapterBank())
    decoder.warm_up([EXACT, ADAPTED], report_form)
    assert capsys.readouterr().err.splitlines() == [
        "94 % compiled 1 of 2: 4 rows of 40 frames, 13 condition tokens, no adapters",
        "99 % compiled 2 of 2: 4 rows of 40 frames, 13 condition tokens, adapters of 64 columns",
    ]


def test_an_unforeseen_length_is_compiled_loudly_once_for_its_whole_size_class(caplog):
    model = tiny_transformer()
    decoder, traced = build(model)
    decoder.warm_up([EXACT])
    with caplog.at_level(logging.WARNING):
        run(decoder, draw(model, 4, 45))
    before, after = said(caplog)
    assert "while playing waits" in before
    assert "up to 48 frames" in before
    assert after.startswith("compiled in ")
    caplog.clear()
    for frames in (41, 42, 46, 48):
        run(decoder, draw(model, 4, frames))
    assert traced.programs == 2
    assert not said(caplog)


def test_a_program_that_no_form_foresaw_is_told_of(caplog):
    model = tiny_transformer()
    decoder, traced = build(model)
    decoder.warm_up([EXACT])
    with caplog.at_level(logging.WARNING):
        model.bfloat16()  # another dtype is another program, and no form says so
        run(decoder, draw(model, 4, 40))
    assert traced.programs == 2
    assert [line for line in said(caplog) if "no form foresaw" in line]


@torch.no_grad()
@pytest.mark.parametrize(("rows", "frames"), [(1, 40), (4, 40), (3, 39), (5, 40), (1, 41), (4, 70), (2, 641), (4, 645)])
def test_filling_up_changes_nothing_beyond_rounding(rows, frames):
    """Without a window's worth of tokens, under a band and by blocks."""
    model = tiny_transformer()
    decoder, _ = build(model)
    decoder.warm_up([EXACT])
    inputs = draw(model, rows, frames)
    torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("frames", [40, 45])
def test_a_row_does_not_depend_on_its_batch(frames):
    model = tiny_transformer()
    decoder, _ = build(model)
    decoder.warm_up([EXACT])
    inputs = draw(model, 4, frames)
    together = run(decoder, inputs)
    alone = run(decoder, tuple(part[1:2] for part in inputs))
    torch.testing.assert_close(alone[0], together[1], **TOLERANCE)
    mixed = with_row_of(inputs, tuple(9 * part for part in draw(model, 4, frames, seed=9)), 1)
    torch.testing.assert_close(run(decoder, mixed)[1], together[1], **TOLERANCE)


@torch.no_grad()
def test_stacked_adapters_do_what_branches_do_whatever_came_and_went():
    model = tiny_transformer()
    bank = AdapterBank()
    decoder, _ = build(model, bank)
    eager = DitForward(model, bank)
    inputs = draw(model, 3, 40)

    def agree(strengths):
        adapted = run(decoder, inputs, strengths)
        torch.testing.assert_close(adapted, run(eager, inputs, strengths), **TOLERANCE)
        return adapted

    plain = agree(torch.zeros(3, 0))
    first = bank.add(random_factors(model))
    one = agree(torch.tensor([[0.0], [1.0], [0.3]]))
    torch.testing.assert_close(one[0], plain[0], **TOLERANCE)
    assert float((one[1] - plain[1]).abs().max()) > 1e-3
    bank.add(random_factors(model, only="layers.0.mlp.up_proj", seed=4))
    agree(torch.tensor([[0.5], [1.0], [0.0]]))  # strengths that are older than the second
    agree(torch.tensor([[0.0, 1.0], [1.0, 0.5], [0.0, 0.0]]))
    bank.remove(first)
    agree(torch.tensor([[1.0, 1.0], [0.0, 0.5], [0.0, 0.0]]))
    bank.add(random_factors(model, seed=5))
    agree(torch.tensor([[1.0, 1.0], [0.0, 0.5], [0.2, 0.0]]))


def test_a_stack_keeps_its_buffers_until_they_are_too_small():
    model = tiny_transformer()
    bank = AdapterBank()
    stack = AdapterStack(model)
    stack.reserve(1)
    assert stack.columns == COLUMNS_STEP
    module = model.get_submodule("layers.0.self_attn.to_q")
    down = stack.rows(torch.zeros(2, 0)).pairs[module][0]
    places = [bank.add(random_factors(model, seed=seed)) for seed in range(COLUMNS_STEP // 2)]
    stack.update(bank.snapshot)
    assert stack.columns == COLUMNS_STEP
    assert stack.rows(torch.zeros(2, 1)).pairs[module][0] is down
    assert bool((down.abs().sum(1) > 0).all())
    bank.remove(places[0])
    stack.update(bank.snapshot)
    assert int((down.abs().sum(1) > 0).sum()) == COLUMNS_STEP - 2
    for seed in (98, 99):
        bank.add(random_factors(model, seed=seed))
    stack.update(bank.snapshot)
    assert stack.columns == 2 * COLUMNS_STEP
    assert len(stack.rows(torch.zeros(2, 1)).pairs[module][0]) == 2 * COLUMNS_STEP


def test_a_stack_that_finds_no_memory_is_left_as_it_was():
    model = tiny_transformer()
    bank, stack = AdapterBank(), AdapterStack(model)
    bank.add(random_factors(model))
    stack.update(bank.snapshot)
    module = model.get_submodule("layers.0.self_attn.to_q")
    before = [factor.clone() for factor in stack.rows(torch.ones(2, 1)).pairs[module]]
    with pytest.raises(RuntimeError, match="memory"):
        stack.reserve(10**14)
    assert stack.columns == COLUMNS_STEP
    stack.update(bank.snapshot)
    held = stack.rows(torch.ones(2, 1))
    assert held.strengths.shape == (2, COLUMNS_STEP)
    for factor, expected in zip(held.pairs[module], before, strict=True):
        assert torch.equal(factor, expected)


def test_a_bounce_meets_no_form_that_the_engines_warm_up_did_not_compile(tiny):
    traced = Traced()
    decoder = StaticDecoder(tiny.transformer, tiny.adapters, run=traced)
    engine, heard = Engine(replace(tiny, decoder=decoder)), []
    warm_up(engine, heard.append)
    assert [ready.form for ready in heard] == tiny.track_sizes.forms
    assert traced.programs == len(heard)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 48_000)).astype(np.float32)
    bounce = render(engine, sound, 48_000, build_table({}, 25), make_config(steps=2))
    assert traced.programs == len(heard)
    eager = render(Engine(tiny), sound, 48_000, build_table({}, 25), make_config(steps=2))
    np.testing.assert_allclose(bounce, eager, atol=1e-3)


def test_columns_of_adapters_that_left_ask_for_no_strength():
    model = tiny_transformer()
    bank, stack = AdapterBank(), AdapterStack(model)
    for seed in range(3):
        bank.add(random_factors(model, seed=seed))
    stack.update(bank.snapshot)
    for place in (0, 1, 2):
        bank.remove(place)
    stack.update(bank.snapshot)
    assert stack.rows(torch.ones(2, 1)).strengths.tolist() == [[1.0] * COLUMNS_STEP] * 2


def test_a_rings_warm_up_compiles_the_one_form_that_it_meets_with_the_adapters_there_are():
    bank, heard = AdapterBank(), []
    model = tiny_transformer()
    decoder, traced = build(model, bank)
    decoder.warm_up_ring(RING, heard.append)
    bank.add(random_factors(model))
    decoder.warm_up_ring(RING, heard.append)
    decoder.warm_up_ring(RING, heard.append)
    assert [ready.form for ready in heard] == [EXACT, ADAPTED]
    run(decoder, draw(model, 4, 40), torch.ones(4, 1))
    assert traced.programs == 2


def test_room_for_an_adapter_is_compiled_in_whole_steps_of_columns():
    bank, heard = AdapterBank(), []
    model = tiny_transformer()
    decoder, traced = build(model, bank)
    decoder.warm_up([replace(ADAPTED, columns=5)], heard.append)
    assert [ready.form for ready in heard] == [ADAPTED]
    bank.add(random_factors(model))
    run(decoder, draw(model, 4, 40), torch.ones(4, 1))
    assert traced.programs == 1


@torch.no_grad()
def test_a_stream_without_adapters_does_not_wait_where_its_length_is_compiled_with_some(caplog):
    bank, model = AdapterBank(), tiny_transformer()
    decoder, traced = build(model, bank)
    bank.add(random_factors(model))
    decoder.warm_up_ring(RING)
    inputs = draw(model, 3, 40)
    torch.testing.assert_close(run(decoder, inputs), run(DitForward(model), inputs), **TOLERANCE)
    assert traced.programs == 1
    assert not said(caplog)


@torch.no_grad()
def test_without_adapters_the_bits_are_the_bare_models_again():
    bank, model = AdapterBank(), tiny_transformer()
    decoder, _ = build(model, bank)
    decoder.warm_up([EXACT, ADAPTED])
    inputs, strengths = draw(model, 4, 40), torch.ones(4, 1)
    bare = run(decoder, inputs)
    place = bank.add(random_factors(model))
    assert not torch.equal(run(decoder, inputs, strengths), bare)
    bank.remove(place)
    assert torch.equal(run(decoder, inputs, strengths), bare)


def test_rings_of_many_lengths_share_the_programs_of_size_classes(monkeypatch):
    monkeypatch.setattr(static_decoder, "MOST_OWN_LENGTHS", 2)
    model = tiny_transformer()
    decoder, traced = build(model)
    heard = []
    for frames in (40, 50, 70, 72, 75, 80, 40):
        decoder.warm_up_ring(replace(RING, frames=frames), heard.append)
        run(decoder, draw(model, 4, frames))
    own, filled = [40, 50], [80]
    assert [(ready.form.frames, ready.form.is_filled) for ready in heard] == [
        *((frames, False) for frames in own), *((frames, True) for frames in filled)
    ]  # fmt: skip
    assert traced.programs == 3


def test_a_session_compiles_when_a_stream_begins_and_not_while_it_plays(tiny_folder):
    with Session(str(tiny_folder)) as session:
        checkpoint, traced = session.checkpoint, Traced()
        decoder = StaticDecoder(checkpoint.transformer, checkpoint.adapters, run=traced)
        session.checkpoint = replace(checkpoint, decoder=decoder)
        session.generate(conditioning=session.encode_text(tags="strings"), duration=1.0, steps=2)
        (form,) = decoder.forms
        assert (form.rows, form.frames, form.is_filled) == (4, 26, False)
        assert traced.programs == 1


@torch.no_grad()
def test_more_forms_than_torch_keeps_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(compiled, "MOST_PROGRAMS", 2)
    run_compiled = Traced()
    decoder = StaticDecoder(tiny_transformer(), run=run_compiled)
    decoder.warm_up([Form(4, frames, TOKENS) for frames in (20, 30)])
    with pytest.raises(DemonError, match=r"compiled for 2 forms.*start the engine anew") as caught:
        decoder.warm_up([EXACT])
    assert caught.value.code == "E_BACKEND"
    decoder.warm_up([Form(4, 20, TOKENS)])  # what there is still runs


def test_a_warm_up_that_cannot_compile_says_so():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    decoder = StaticDecoder(tiny_transformer(), run=CompiledVelocity(compiler=broken))
    with pytest.raises(DemonError, match="no compiler here") as caught:
        decoder.warm_up([EXACT])
    assert caught.value.code == "E_BACKEND"
    assert not decoder.forms
