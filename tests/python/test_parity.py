# SPDX-License-Identifier: Apache-2.0
"""The engine against diffusers' `AceStepPipeline` on tiny models of random weights.

The pipeline runs for real, and what went into its decoder and came out is recorded. Then the engine does the same work: its
forward on the recorded inputs; its own conditioning, structure and ring, the wavelet correction off. With the pipeline's batch
and without padding the bits are equal. Where they cannot be, the tolerance is 1e-5 and the test says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import CHANNELS, WIDTH, Case, record
from torch import Tensor

from engine_server.diffusion.noise import Purpose, RequestNoise
from engine_server.diffusion.request import ConditionEntry, SlotRequest
from engine_server.diffusion.ring import DEFAULT_BATCH, Ring
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.schedule import build_schedule
from engine_server.model.conditioning import Condition, Conditioner, pad_condition
from engine_server.model.dit import DitForward
from engine_server.model.prompts import Metas
from engine_server.model.structure import Structure
from engine_server.model.timbre import TimbreReference

PADDED_TOKENS = 512
"""Bytes are tokens here, so a prompt takes about 300 of them."""
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


CASES = {
    "text2music": Case(),
    "lyrics and metas": Case(lyrics="[verse]\nla la", metas=Metas(bpm=120, key="A minor", meter=3)),
    "odd length": Case(seconds=10.04),
    "one step": Case(steps=1),
    "cover": Case("cover"),
    "repaint": Case("repaint", span_s=(1.0, 7.5)),
    "reference audio": Case(has_reference=True),
    "cover of odd length with reference audio": Case("cover", seconds=10.04, has_reference=True),
    "base": Case(is_base=True),
    "repaint of odd length by a base model": Case("repaint", seconds=10.04, span_s=(0.0, 5.0), is_base=True, shift=1.0),
    "XL": Case(is_xl=True),
    "cover by an XL base model": Case("cover", is_base=True, is_xl=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


# What the decoder is given


def conditioner_of(pipeline: AceStepPipeline) -> Conditioner:
    modules = (pipeline.tokenizer, pipeline.text_encoder, pipeline.condition_encoder)
    return Conditioner(*modules, condition_tokens=PADDED_TOKENS, turbo=pipeline.is_turbo)


def structure_of(pipeline: AceStepPipeline) -> Structure:
    silence = pipeline.condition_encoder.silence_latent[0]
    return Structure(pipeline.audio_tokenizer, pipeline.audio_token_detokenizer, silence)


def condition_of(case: Case, *, task: str | None = None) -> Condition:
    """Made by the engine's own conditioner."""
    return conditioner_of(case.pipeline).encode(
        case.caption,
        lyrics=case.lyrics,
        task=task or case.task,
        metas=replace(case.metas, duration_s=case.seconds),
        timbre=[TimbreReference(record(case).clip)] if case.has_reference else [],
    )


def context_of(case: Case, *, own_hints: bool = False) -> Tensor:
    """Made by the engine's own structure; of a cover from the pipeline's hints, or from the engine's own."""
    structure, recording = structure_of(case.pipeline), record(case)
    if case.task == "cover":
        hints = structure.hints(recording.source) if own_hints else recording.context[:, :CHANNELS]
        return structure.cover_context(hints)
    if case.task == "repaint":
        return structure.repaint_context(recording.source, [tuple(int(25 * second) for second in case.span_s)])
    return structure.text_context(len(recording.noise))


@every_case
def test_condition_and_context_are_the_pipelines_to_the_bit(case):
    recording, condition = record(case), condition_of(case)
    assert torch.equal(condition.states, recording.condition.states)
    assert torch.equal(condition.mask, recording.condition.mask)
    assert torch.equal(context_of(case), recording.context)
    if case.is_base:
        both = recording.calls[0][0]["encoder_hidden_states"]
        assert torch.equal(conditioner_of(case.pipeline).null(condition).states, both[1:])


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.task == "cover"])
def test_hints_are_the_pipelines_as_near_as_batches_of_another_size_come(case):
    """The engine puts groups of frames through the tokenizer in batches of one size, the pipeline all at once."""
    torch.testing.assert_close(context_of(case, own_hints=True), record(case).context, **TOLERANCE)


@every_case
def test_the_schedule_is_the_pipelines(case):
    """In float64, where the pipeline works in float32."""
    ours = build_schedule(case.steps, case.shift, 1.0)[:-1]
    torch.testing.assert_close(torch.from_numpy(ours).float(), torch.tensor(record(case).levels), atol=1e-6, rtol=0)


# Forwards


@every_case
@torch.no_grad()
def test_every_forward_of_the_pipeline_is_ours_to_the_bit(case):
    recording, forward = record(case), DitForward(case.pipeline.transformer)
    assert len(recording.calls) == case.steps
    for inputs, velocity in recording.calls:
        states = inputs["encoder_hidden_states"]
        assert len(states) == case.rows
        condition = forward.encode(states, torch.ones(states.shape[:2], dtype=torch.bool))
        ours = forward(inputs["hidden_states"], inputs["timestep"], inputs["context_latents"], condition)
        assert torch.equal(ours, velocity)


# Latents


@dataclass(frozen=True)
class GivenNoise:
    """The noise that the pipeline drew."""

    values: Tensor

    def draw(self, purpose: Purpose, step: int, frames: int, channels: int) -> Tensor:
        assert purpose is Purpose.INITIAL
        assert self.values.shape == (frames, channels)
        return self.values


def request_of(case: Case, conditions: Sequence[Condition], *, context: Tensor, **details: Any) -> SlotRequest:
    recording = record(case)
    negatives = [conditioner_of(case.pipeline).null(one) for one in conditions] if case.is_base else []
    return SlotRequest(
        **{
            "request_id": "case",
            "noise": GivenNoise(recording.noise),
            "context": context,
            "conditions": [ConditionEntry(one.states[0], one.mask[0]) for one in conditions],
            "negatives": [ConditionEntry(one.states[0], one.mask[0]) for one in negatives],
            "timesteps": recording.levels,
            "guidance": case.guidance if case.is_base else None,
            **details,
        }
    )


def ring_of(case: Case, *, tokens: int, batch: int, depth: int = 1) -> Ring:
    shape = RingShape(depth, len(record(case).noise), CHANNELS, tokens, WIDTH)
    return Ring(DitForward(case.pipeline.transformer), shape, batch=batch)


def latents_of(ring: Ring) -> Tensor:
    """Of the request `case`, once it is finished."""
    while True:
        for completion in ring.tick():
            if completion.request_id == "case":
                return completion.latent


@every_case
def test_the_ring_gives_the_pipelines_latents_to_the_bit(case):
    """From the engine's own condition and context (of a cover, with the pipeline's hints)."""
    condition = condition_of(case)
    ring = ring_of(case, tokens=condition.states.shape[1], batch=case.rows)
    ring.admit(request_of(case, [condition], context=context_of(case)))
    ours, theirs = latents_of(ring), record(case).latents
    assert (ours - record(case).noise).std() > 0.5
    assert torch.equal(ours, theirs)


@every_case
def test_the_ring_as_the_engine_uses_it_gives_the_pipelines_latents_within_rounding(case):
    """In batches of the default size, with padded conditions, hints and schedule of its own, beside another generation."""
    condition = pad_condition(condition_of(case), PADDED_TOKENS)
    ring = ring_of(case, tokens=PADDED_TOKENS, batch=DEFAULT_BATCH, depth=3)
    context = context_of(case, own_hints=True)
    neighbour = {"request_id": "neighbour", "noise": RequestNoise(1), "steps": 9}
    ring.admit(request_of(case, [condition], context=0.5 * context, timesteps=None, **neighbour))
    ring.tick()
    own_schedule = {"timesteps": None, "steps": case.steps, "shift": case.shift}
    ring.admit(request_of(case, [condition], context=context, **own_schedule))
    torch.testing.assert_close(latents_of(ring), record(case).latents, **TOLERANCE)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("is_xl", [False, True], ids=["2B", "XL"])
def test_a_weaker_cover_is_a_blend_of_two_conditions(strength, is_xl):
    """Both see the same hints. Their prompts differ in length, so at least one is padded, and the bits may differ."""
    case = Case("cover", cover_strength=strength, is_xl=is_xl)
    recording = record(case)
    assert len(recording.calls) == 2 * case.steps
    cover, text = (pad_condition(condition_of(case, task=task), PADDED_TOKENS) for task in ("cover", "text2music"))
    entries = [
        ConditionEntry(condition.states[0], condition.mask[0], weight)
        for condition, weight in ((cover, strength), (text, 1.0 - strength))
    ]
    ring = ring_of(case, tokens=PADDED_TOKENS, batch=1)
    ring.admit(replace(request_of(case, [cover], context=context_of(case)), conditions=entries))
    torch.testing.assert_close(latents_of(ring), recording.latents, **TOLERANCE)
    assert (recording.latents - record(replace(case, cover_strength=1.0)).latents).abs().max() > 1e-3


@settings(max_examples=8)
@given(
    frames=st.integers(250, 290),
    steps=st.integers(1, 6),
    shift=st.integers(1, 24).map(lambda quarters: quarters / 4),  # in float32 others may make a level just above 1
    caption=st.text(max_size=40),
    lyrics=st.text(max_size=40),
    is_xl=st.booleans(),
)
def test_any_text_length_and_schedule_give_the_pipelines_latents_to_the_bit(
    frames, steps, shift, caption, lyrics, is_xl
):
    case = Case(seconds=frames / 25, caption=caption, lyrics=lyrics, steps=steps, shift=shift, is_xl=is_xl)
    condition = condition_of(case)
    ring = ring_of(case, tokens=condition.states.shape[1], batch=1)
    ring.admit(request_of(case, [condition], context=context_of(case)))
    assert torch.equal(latents_of(ring), record(case).latents)


@settings(max_examples=5)
@given(guidance=st.floats(1.01, 15.0), steps=st.integers(2, 6), frames=st.integers(250, 260))
def test_any_guidance_gives_the_pipelines_latents_within_rounding(guidance, steps, frames):
    case = Case(seconds=frames / 25, guidance=guidance, steps=steps, is_base=True)
    condition = condition_of(case)
    ring = ring_of(case, tokens=condition.states.shape[1], batch=2)
    ring.admit(request_of(case, [condition], context=context_of(case)))
    torch.testing.assert_close(latents_of(ring), record(case).latents, **TOLERANCE)
