# SPDX-License-Identifier: Apache-2.0
"""Forwards of any size on engines of some sizes: pure planning, no TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trt_rig import engine_note

from shared_protocol.errors import DemonError
from trt_engines.engine_file import EngineFile, Wanted
from trt_engines.forward_plan import DecoderSizes, Form
from trt_engines.profiles import Span, decoder_axes

HASH = "5f" * 32
ROWS, FRAMES, TOKENS = Span(1, 4, 8), Span(32, 1500, 1500), Span(16, 256, 2048)


def sizes(rows=ROWS, frames=FRAMES, tokens=TOKENS):
    note = engine_note("decoder_mixed_b8_60s", decoder_axes(rows, frames, tokens), precision="mixed")
    file = EngineFile(Path("engine.plan"), Wanted("decoder", "ACE-Step/turbo", HASH), note)
    return DecoderSizes.of(file)


@st.composite
def engines(draw):
    def span(most, unit=1):
        least = draw(st.integers(1, most))
        return Span(least, least, draw(st.integers(least, most))) * unit

    return sizes(span(8), span(40, 2), span(64))


@given(engines(), st.data())
def test_every_row_runs_once_within_the_engines_sizes(engine, data):
    rows = data.draw(st.integers(1, 20))
    frames = data.draw(st.integers(1, engine.frames.most))
    tokens = data.draw(st.integers(1, engine.tokens.most))
    most = data.draw(st.none() | st.integers(1, 8))
    forward = engine.plan(rows, frames, tokens, most_rows=most)
    form = forward.form
    assert [row for run in forward.runs for row in run] == list(range(rows))
    assert all(1 <= len(run) <= form.rows for run in forward.runs)
    assert engine.rows.least <= form.rows <= engine.rows.most
    assert most is None or form.rows <= max(most, engine.rows.least)
    assert engine.frames.least <= form.frames <= engine.frames.most
    assert engine.tokens.least <= form.tokens <= engine.tokens.most
    assert form.frames % 2 == 0
    assert form.frames >= frames
    assert form.tokens >= tokens
    assert form.frames - frames <= 1 or form.frames == engine.frames.least


@given(st.integers(1, 40), st.integers(1, 8))
def test_there_are_as_few_runs_as_can_be_and_little_is_computed_for_nothing(rows, most):
    forward = sizes(rows=Span(1, 1, most)).plan(rows, 40, 16)
    assert len(forward.runs) == -(-rows // most)
    assert len(forward.runs) * forward.form.rows - rows < len(forward.runs)


@pytest.mark.parametrize(
    ("wish", "form", "runs"),
    [
        ((4, 140, 256), Form(4, 140, 256), [range(4)]),
        ((9, 141, 256), Form(5, 142, 256), [range(5), range(5, 9)]),
        ((1, 5, 3), Form(1, 32, 16), [range(1)]),
    ],
)
def test_examples(wish, form, runs):
    forward = sizes().plan(*wish)
    assert (forward.form, list(forward.runs)) == (form, runs)


@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        ((1, 1501, 256), "E_ENGINE_NOT_BUILT", "up to 60 s, and this one has 60.04 s; run: demon .* --duration 120 "),
        ((1, 5999, 256), "E_ENGINE_NOT_BUILT", "--duration 240 --precision mixed"),
        ((1, 6001, 256), "E_FIELD", "engines end at 240 s: use the eager backend"),
        ((1, 140, 2049), "E_FIELD", "2049 tokens, and engine.plan takes 2048 at most; shorten the lyrics"),
    ],
)  # fmt: skip
def test_what_is_beyond_an_engine_says_what_to_do(wish, code, message):
    with pytest.raises(DemonError, match=message) as raised:
        sizes().plan(*wish)
    assert raised.value.code == code


def test_a_note_of_other_inputs_is_told():
    note = engine_note("decoder_mixed_b8_60s", {"audio": {0: Span(1, 1, 1)}}, precision="mixed")
    file = EngineFile(Path("engine.plan"), Wanted("decoder", "ACE-Step/turbo", HASH), note)
    with pytest.raises(DemonError, match=r"E_ENGINE_FILE: .* no sizes for axis 0 of hidden_states.*--force-rebuild"):
        DecoderSizes.of(file)
