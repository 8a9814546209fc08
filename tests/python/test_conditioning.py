# SPDX-License-Identifier: Apache-2.0
"""Conditions and timbre, held to diffusers' own pipeline on a tiny one of random weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny_pipeline import AUDIO, CHANNELS, RATE, WIDTH, build_pipeline
from torch import nn

from engine_server.model.blends import lerp
from engine_server.model.conditioning import (
    Condition,
    Conditioner,
    RecentResults,
    encode_lyrics,
    encode_text,
    pad_condition,
    zero_out,
)
from engine_server.model.prompts import Metas, format_lyrics, format_prompt, task_instruction
from engine_server.model.timbre import TIMBRE_FRAMES, TimbreReference, timbre_indices, timbre_vector
from shared_protocol.errors import DemonError


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline()


def make_conditioner(pipeline, **options) -> Conditioner:
    modules = (pipeline.tokenizer, pipeline.text_encoder, pipeline.condition_encoder)
    return Conditioner(*modules, **{"condition_tokens": 128, **options})


@pytest.fixture
def conditioner(pipeline):
    """One that remembers nothing yet."""
    return make_conditioner(pipeline)


def random_clip(frames, seed=0, strength=1.0) -> TimbreReference:
    return TimbreReference(torch.randn(frames, CHANNELS, generator=torch.Generator().manual_seed(seed)), strength)


def what_the_pipeline_encodes(pipeline, **arguments):
    """The condition encoder's inputs and output (states, mask) in a real run of the pipeline."""
    seen = []
    hook = pipeline.condition_encoder.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True
    )
    try:
        pipeline(num_inference_steps=1, guidance_scale=1.0, audio_duration=10.0, output_type="latent", **arguments)
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("task", "theirs", "ours"),
    [
        ("text2music", {}, {}),
        ("text2music", {"lyrics": "[verse]\nla", "vocal_language": "de"}, {"lyrics": "[verse]\nla", "language": "de"}),
        ("text2music", {"lyrics": "la " * 700}, {"lyrics": "la " * 700}),
        ("cover", {"src_audio": AUDIO}, {}),
        ("repaint", {"src_audio": AUDIO, "repainting_end": 2.0, "instruction": "Mend"}, {"instruction": "Mend"}),
    ],
    ids=["text", "lyrics", "cut lyrics", "cover", "instruction"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("caption", "metas"),
    [("techno, 909 drums", {"bpm": 128, "keyscale": "A minor", "timesignature": "4"}), ("a long caption " * 30, {})],
    ids=["short, metas", "cut, open metas"],
)
def test_an_unpadded_condition_is_the_pipelines_to_the_bit(pipeline, conditioner, task, theirs, ours, caption, metas):
    _, (states, mask) = what_the_pipeline_encodes(pipeline, prompt=caption, task_type=task, **metas, **theirs)
    known = Metas(bpm=128, key="A minor", meter=4, duration_s=10.0) if metas else Metas(duration_s=10.0)
    condition = conditioner.encode(caption, task=task, metas=known, **ours)
    assert torch.equal(condition.states, states)
    assert torch.equal(condition.mask, mask)


def test_a_condition_with_reference_audio_is_the_pipelines_to_the_bit(pipeline, conditioner):
    inputs, (states, _) = what_the_pipeline_encodes(
        pipeline, prompt="pop", task_type="cover", src_audio=AUDIO, reference_audio=AUDIO
    )
    clip = inputs["refer_audio_acoustic_hidden_states_packed"][0]
    assert clip.shape == (TIMBRE_FRAMES, CHANNELS)
    metas = Metas(duration_s=10.0)
    assert torch.equal(conditioner.encode("pop", metas=metas, timbre=[TimbreReference(clip)]).states, states)
    assert not torch.equal(conditioner.encode("pop", metas=metas).states, states)


@torch.no_grad()
def test_several_clips_give_a_vector_each_as_in_diffusers(pipeline, conditioner):
    clips = [random_clip(TIMBRE_FRAMES, seed) for seed in range(3)]
    text, text_mask, lyric, lyric_mask = pipeline.encode_prompt(
        "pop", "", "cpu", instruction=task_instruction("cover"), audio_duration=30
    )
    states, _ = pipeline.condition_encoder(
        text,
        text_mask,
        lyric,
        lyric_mask,
        torch.stack([clip.latents for clip in clips]),
        torch.zeros(3, dtype=torch.long),
    )
    ours = conditioner.encode("pop", timbre=clips).states
    torch.testing.assert_close(ours, states, atol=1e-6, rtol=1e-5)  # their batch of 3 rounds otherwise than 3 of 1
    first = len(pipeline.tokenizer(format_lyrics()).input_ids)
    for place, clip in enumerate(clips):
        assert torch.equal(ours[:, first + place], conditioner.encode("pop", timbre=[clip]).states[:, first])


@pytest.mark.parametrize("frames", [1, 20, 1000])
def test_timbre_goes_from_exactly_silence_to_exactly_the_clip(pipeline, conditioner, frames):
    clip = random_clip(frames)
    silence, full = conditioner.encode("pop"), conditioner.encode("pop", timbre=[clip])
    assert torch.equal(conditioner.encode("pop", timbre=[replace(clip, strength=0.0)]).states, silence.states)
    half = conditioner.encode("pop", timbre=[replace(clip, strength=0.5)]).states
    torch.testing.assert_close(half, lerp(silence.states, full.states, 0.5), atol=1e-6, rtol=0)
    moved = (full.states != silence.states).any(dim=-1)[0].nonzero().flatten().tolist()
    assert moved == [len(pipeline.tokenizer(format_lyrics()).input_ids)]


def test_each_clip_has_its_own_strength(conditioner):
    a, b = random_clip(30, seed=1, strength=0.25), random_clip(40, seed=2, strength=0.75)
    alone_a, alone_b = (conditioner.encode("pop", timbre=[clip]).states for clip in (a, b))
    both = conditioner.encode("pop", timbre=[a, b]).states
    assert both.shape[1] == alone_a.shape[1] + 1
    place = int((alone_a != alone_b).any(dim=-1)[0].nonzero())
    assert torch.equal(both[:, place], alone_a[:, place])
    assert torch.equal(both[:, place + 1], alone_b[:, place])


class WithToken(nn.Module):
    """An embedding that prepends the learned token, so that diffusers' own forward does what XL checkpoints were trained with."""

    def __init__(self, embedding, token):
        super().__init__()
        self.embedding, self.token = embedding, token

    def forward(self, latents):
        return torch.cat([self.token.expand(len(latents), 1, -1), self.embedding(latents)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 50, TIMBRE_FRAMES])
def test_a_timbre_vector_is_diffusers_own_and_its_learned_token_can_come_first(pipeline, frames):
    encoder, latents = pipeline.condition_encoder.timbre_encoder, random_clip(frames).latents
    order = torch.zeros(1, dtype=torch.long)
    plain = timbre_vector(encoder, latents)
    assert torch.equal(plain, encoder(latents[None], order)[0][0])
    with_token = timbre_vector(encoder, latents, cls_token=True)
    xl = deepcopy(encoder)
    xl.embed_tokens = WithToken(encoder.embed_tokens, encoder.special_token)
    assert torch.equal(with_token, xl(latents[None], order)[0][0])
    assert not torch.equal(with_token, plain)


def test_the_learned_token_is_a_property_of_the_checkpoint(pipeline, conditioner):
    xl = make_conditioner(pipeline, timbre_cls_token=True)
    assert not torch.equal(xl.encode("pop").states, conditioner.encode("pop").states)


@pytest.mark.parametrize("samples", [1, 5601, 24_000, 25_001, 60_000])
def test_a_reference_is_cut_as_upstream_cuts_it(pipeline, samples):
    audio = torch.randn(2, samples, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)  # diffusers samples the codec's posterior from the global generator
    theirs, _ = pipeline.prepare_reference_audio_latents(audio, 1, torch.device("cpu"), torch.float32)
    torch.manual_seed(3)
    heard = audio[:, timbre_indices(samples, RATE)]
    assert heard.shape == (2, 30 * RATE)
    assert torch.equal(pipeline.vae.encode(heard[None]).latent_dist.sample().transpose(1, 2), theirs)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: TimbreReference(torch.zeros(0, CHANNELS)), "E_FIELD"),
        (lambda: TimbreReference(torch.zeros(1, 5, CHANNELS)), "E_FIELD"),
        (lambda: TimbreReference(torch.zeros(5, CHANNELS), 1.01), "E_FIELD"),
        (lambda: TimbreReference(torch.zeros(5, CHANNELS), float("nan")), "E_FIELD"),
        (lambda: TimbreReference(torch.full((5, CHANNELS), torch.inf)), "E_NOT_FINITE"),
        (lambda: timbre_indices(0, RATE), "E_FIELD"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(make, code):
    with pytest.raises(DemonError) as caught:
        make()
    assert caught.value.code == code


def test_what_the_checkpoint_cannot_encode_is_refused(pipeline, conditioner):
    with pytest.raises(DemonError, match="5 channels; 8"):
        conditioner.encode("pop", timbre=[TimbreReference(torch.zeros(10, 5))])
    with pytest.raises(DemonError, match="E_TASK"):
        conditioner.encode("pop", task="extract")
    base = make_conditioner(pipeline, turbo=False)
    drums = base.encode("pop", task="extract", tracks=["drums"])
    assert not torch.equal(drums.states, base.encode("pop", task="extract", tracks=["bass"]).states)


def test_conditions_are_padded_to_a_length_that_the_configuration_fixes(conditioner):
    condition = Condition(torch.ones(1, 70, 8), torch.ones(1, 70, dtype=torch.bool))
    assert pad_condition(condition, 96).states.shape == (1, 96, 8)
    assert pad_condition(condition, 32).mask.sum() == 70
    assert pad_condition(condition, 32).mask.shape == (1, 128)
    plain, padded = conditioner.encode("pop"), conditioner.encode_padded("pop")
    tokens = plain.states.shape[1]
    assert padded.states.shape == (1, 256, WIDTH)
    assert torch.equal(padded.states[:, :tokens], plain.states)
    assert not padded.states[:, tokens:].any()
    assert padded.mask.tolist() == [[True] * tokens + [False] * (256 - tokens)]


def test_negatives_have_the_shape_and_mask_of_the_positive(pipeline, conditioner):
    padded = conditioner.encode_padded("pop")
    null, zero = conditioner.null(padded), zero_out(padded)
    assert torch.equal(null.mask, padded.mask)
    assert torch.equal(zero.mask, padded.mask)
    learned = pipeline.condition_encoder.null_condition_emb.detach()
    assert torch.equal(null.states[padded.mask], learned[0].expand(int(padded.mask.sum()), -1))
    assert not null.states[~padded.mask].any()
    assert zero.states.shape == padded.states.shape
    assert not zero.states.any()


def test_equal_content_is_encoded_once_and_other_content_anew(conditioner):
    clip = random_clip(20)
    usual = {
        "caption": "pop",
        "lyrics": "la",
        "language": "en",
        "task": "cover",
        "metas": Metas(bpm=100),
        "timbre": [clip],
    }
    first = conditioner.encode(**usual)
    assert conditioner.encode(**{**usual, "timbre": [TimbreReference(clip.latents.clone())]}) is first
    for change in (
        {"caption": "rock"}, {"lyrics": "lo"}, {"language": "de"}, {"task": "repaint"}, {"metas": Metas(bpm=101)},
        {"instruction": "Else:"}, {"timbre": []}, {"timbre": [clip, clip]}, {"timbre": [replace(clip, strength=0.9)]},
        {"timbre": [random_clip(20, seed=1)]}, {"padded": True},
    ):  # fmt: skip
        other = conditioner.encode(**{**usual, **change})
        assert other.states.shape != first.states.shape or not torch.equal(other.states, first.states), change
    assert conditioner.encode_padded(**usual) is conditioner.encode_padded(**usual)


def test_a_clip_that_was_written_to_is_another_clip(conditioner):
    clip = random_clip(20)
    before = conditioner.encode("pop", timbre=[clip])
    clip.latents.add_(1.0)
    assert not torch.equal(conditioner.encode("pop", timbre=[clip]).states, before.states)


def test_what_was_encoded_before_does_not_change_a_bit(pipeline, conditioner):
    conditioner.encode("a much longer caption than the other", lyrics="la la", timbre=[random_clip(40, seed=5)])
    wanted = {"caption": "pop", "timbre": [random_clip(30)]}
    assert torch.equal(conditioner.encode(**wanted).states, make_conditioner(pipeline).encode(**wanted).states)


def test_the_least_recently_used_results_go_first_and_the_newest_stays():
    recent: RecentResults[torch.Tensor] = RecentResults(budget_bytes=64)
    made = []

    def get(key, floats=8):
        recent.get(key, lambda: made.append(key) or torch.zeros(floats))

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]
    get("large", floats=100)
    get("large")
    assert len(recent) == 1
    assert made[-1] == "large"


def test_the_encoders_are_differentiable_and_the_conditioner_is_not(pipeline, conditioner):
    modules = {key: getattr(pipeline, key) for key in ("tokenizer", "text_encoder", "condition_encoder")}
    encoder = pipeline.condition_encoder
    parts = [
        encode_text(format_prompt("pop"), **modules),
        encode_lyrics(format_lyrics("la"), **modules),
        timbre_vector(encoder.timbre_encoder, random_clip(10).latents, cls_token=True)[None],
    ]
    leaves = [pipeline.text_encoder.layers[0].mlp.up_proj.weight, encoder.lyric_encoder.embed_tokens.weight,
              encoder.timbre_encoder.special_token]  # fmt: skip
    for part, leaf in zip(parts, leaves, strict=True):
        (gradient,) = torch.autograd.grad(part.square().sum(), leaf)
        assert gradient.abs().sum() > 0
    assert not conditioner.encode("pop").states.requires_grad
