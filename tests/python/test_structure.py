# SPDX-License-Identifier: Apache-2.0
"""Hints, codes and contexts, held to diffusers' own pipeline on a tiny one of random weights."""

from __future__ import annotations

import pytest
import torch
from tiny_pipeline import AUDIO, CHANNELS, RATE, build_pipeline

from engine_server.model.structure import CHUNK_GROUPS, Structure
from shared_protocol.errors import DemonError

CPU, FLOAT = torch.device("cpu"), torch.float32
CHUNK_FRAMES = 5 * CHUNK_GROUPS


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline()


@pytest.fixture(scope="module")
def structure(pipeline):
    return Structure(
        pipeline.audio_tokenizer, pipeline.audio_token_detokenizer, pipeline.condition_encoder.silence_latent[0]
    )


@pytest.fixture(scope="module")
def raw():
    """As in a checkpoint without a tokenizer."""
    return Structure(None, None, torch.linspace(-1, 1, CHANNELS))


def random_latents(frames, seed=0):
    return torch.randn(frames, CHANNELS, generator=torch.Generator().manual_seed(seed))


def source_latents(pipeline, task):
    """The pipeline's source latents `[T, C]` of AUDIO; it samples the codec's posterior from the global generator."""
    torch.manual_seed(4)
    return pipeline.prepare_src_latents(CPU, FLOAT, src_audio=AUDIO, task_type=task)[0][0]


# Hints and codes


@pytest.mark.parametrize("seconds", [0.12, 1.0, 9.96])
def test_hints_are_those_of_the_pipeline_for_every_length(pipeline, structure, monkeypatch, seconds):
    monkeypatch.setattr("test_structure.AUDIO", AUDIO[:, : int(seconds * RATE)])
    source = source_latents(pipeline, "repaint")
    hints = structure.hints(source)
    assert hints.shape == source.shape
    torch.testing.assert_close(hints, source_latents(pipeline, "cover"), atol=1e-5, rtol=0)  # their batch is another


def test_a_window_on_the_grid_of_codes_has_the_hints_of_the_whole_to_the_bit(structure):
    latents = random_latents(2 * CHUNK_FRAMES + 35)
    hints, codes = structure.hints(latents), structure.codes(latents)
    for first, stop in ((0, 5), (5, 10), (35, 2 * CHUNK_FRAMES), (CHUNK_FRAMES - 5, CHUNK_FRAMES + 5), (160, 355)):
        assert torch.equal(structure.hints(latents[first:stop]), hints[first:stop])
        assert torch.equal(structure.codes(latents[first:stop]), codes[first // 5 : stop // 5])


def test_a_frame_changes_only_its_own_group_of_five(structure):
    latents = random_latents(40)
    hints = structure.hints(latents)
    latents[13] += 10.0
    changed = (structure.hints(latents) != hints).any(dim=1).nonzero().flatten().tolist()
    assert changed == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("frames", [1, 4, 12])
def test_an_incomplete_group_is_completed_by_silence(structure, frames):
    latents = random_latents(frames)
    missing = -frames % 5
    whole = structure.hints(torch.cat([latents, structure.silence(missing)]))
    assert torch.equal(structure.hints(latents), whole[:frames])
    assert len(structure.codes(latents)) == (frames + missing) // 5


def test_codes_stand_for_the_hints(structure):
    latents = random_latents(CHUNK_FRAMES + 10)
    codes = structure.codes(latents)
    assert codes.shape == (CHUNK_GROUPS + 2,)
    assert len(set(codes.tolist())) > CHUNK_GROUPS // 2
    assert torch.equal(structure.from_codes(codes), structure.hints(latents))
    assert torch.equal(structure.from_codes(codes[3:4].tolist()), structure.hints(latents)[15:20])


def test_strings_of_codes_mean_what_the_pipeline_takes_them_for(pipeline, structure):
    text = "<|audio_code_0|> then\n<|audio_code_12345|><|audio_code_63999|><|audio_code_640000|><|audio_code_-3|>"
    codes = structure.parse_codes(text)
    assert codes == [0, 12345, 63999, 63999]
    theirs, frames = pipeline.prepare_src_latents(CPU, FLOAT, audio_codes=text)
    assert frames == 20
    torch.testing.assert_close(structure.from_codes(codes), theirs[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("attempt", "code", "says"),
    [
        (lambda s: s.parse_codes("no codes"), "E_FIELD", "audio_code_N"),
        (lambda s: s.from_codes([]), "E_FIELD", "at least one"),
        (lambda s: s.from_codes([64_000]), "E_FIELD", "63999"),
        (lambda s: s.from_codes([-1]), "E_FIELD", "63999"),
        (lambda s: s.hints(torch.zeros(0, CHANNELS)), "E_FIELD", "1 or more"),
        (lambda s: s.hints(torch.zeros(1, 5, CHANNELS)), "E_FIELD", "shape"),
        (lambda s: s.codes(torch.zeros(5, CHANNELS + 1)), "E_FIELD", "shape"),
    ],
)
def test_what_has_no_structure_is_refused(structure, attempt, code, says):
    with pytest.raises(DemonError, match=says) as caught:
        attempt(structure)
    assert caught.value.code == code


def test_a_checkpoint_without_a_tokenizer_sees_the_source_itself(raw):
    latents = random_latents(7)
    assert raw.hints(latents) is latents
    for attempt in (
        lambda: raw.codes(latents),
        lambda: raw.from_codes([0]),
        lambda: raw.parse_codes("<|audio_code_0|>"),
    ):
        with pytest.raises(DemonError, match="E_NO_TOKENIZER"):
            attempt()


# Silence, blends and strengths


def test_silence_is_repeated_where_it_is_too_short(pipeline, structure, raw):
    theirs, _ = pipeline.prepare_src_latents(CPU, FLOAT, latent_length=1025)
    assert torch.equal(structure.silence(1025), theirs[0])
    assert torch.equal(raw.silence(3), torch.linspace(-1, 1, CHANNELS).expand(3, -1))


def test_a_structure_reference_takes_the_length_of_its_source(structure):
    source, reference = random_latents(10), random_latents(12, seed=1)
    assert torch.equal(structure.fit(reference, 10), reference[:10])
    assert torch.equal(structure.blend(source, reference, 1.0), reference[:10])
    long = structure.blend(reference, source, 1.0)
    assert torch.equal(long, torch.cat([source, structure.silence(2)]))
    assert torch.equal(structure.blend(source, reference, 0.0), source)


def test_two_structures_blend_along_a_curve(structure):
    a, b = random_latents(4), random_latents(4, seed=1)
    mixed = structure.blend(a, b, [0.0, 0.25, 0.5, 1.0])
    assert torch.equal(mixed[[0, 3]], torch.stack([a[0], b[3]]))
    assert torch.equal(mixed[1], 0.75 * a[1] + 0.25 * b[1])


def test_strength_goes_from_silence_to_the_hints(structure):
    hints = random_latents(4)
    assert torch.equal(structure.strengthen(hints, 1.0), hints)
    assert torch.equal(structure.strengthen(hints, 0.0), structure.silence(4))
    half = structure.strengthen(hints, [0.5, 0.5, 1.0, 0.0])
    assert torch.equal(half[:2], 0.5 * structure.silence(2) + 0.5 * hints[:2])
    with pytest.raises(DemonError, match="structure strength"):
        structure.strengthen(hints, 1.5)


# Contexts


def what_the_decoder_sees(pipeline, **arguments):
    """The context `[T, 2C]` in a real run of the pipeline."""
    seen = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["context_latents"]), with_kwargs=True
    )
    try:
        torch.manual_seed(4)
        pipeline(prompt="x", num_inference_steps=1, guidance_scale=1.0, output_type="latent", **arguments)
    finally:
        hook.remove()
    return seen[0][0]


@torch.no_grad()
def test_the_context_of_text_is_the_pipelines(pipeline, structure):
    assert torch.equal(structure.text_context(51), what_the_decoder_sees(pipeline, audio_duration=2.04))


@torch.no_grad()
def test_the_context_of_a_cover_is_the_pipelines(pipeline, structure):
    theirs = what_the_decoder_sees(pipeline, task_type="cover", src_audio=AUDIO)
    assert torch.equal(structure.cover_context(source_latents(pipeline, "cover")), theirs)
    ours = structure.cover_context(structure.hints(source_latents(pipeline, "repaint")))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("start_s", "end_s", "span"), [(1.0, 2.0, (25, 50)), (1.03, 9.99, (25, 249)), (0.0, 0.0, (0, 250))]
)
def test_the_context_of_a_repaint_is_the_pipelines(pipeline, structure, start_s, end_s, span):
    window = {"repainting_start": start_s, "repainting_end": end_s}
    theirs = what_the_decoder_sees(pipeline, task_type="repaint", src_audio=AUDIO, **window)
    assert torch.equal(structure.repaint_context(source_latents(pipeline, "repaint"), [span]), theirs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("task", "window", "spans"),
    [
        ("extract", {}, None),
        ("complete", {}, None),
        ("lego", {}, None),
        ("lego", {"repainting_start": 4.0, "repainting_end": 8.0}, [(100, 200)]),
    ],
)
def test_the_contexts_of_track_tasks_are_the_pipelines(pipeline, structure, task, window, spans):
    theirs = what_the_decoder_sees(pipeline, task_type=task, src_audio=AUDIO, **window)
    assert torch.equal(structure.track_context(source_latents(pipeline, task), spans), theirs)


def test_several_spans_are_made_anew_and_every_mask_channel_is_the_same(structure):
    source = random_latents(10)
    context = structure.repaint_context(source, [(0, 2), (1, 4), (9, 10)])
    inside = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 1], dtype=torch.float32)
    assert torch.equal(context[:, CHANNELS:], inside[:, None].expand(-1, CHANNELS))
    assert torch.equal(context[4:9, :CHANNELS], source[4:9])
    assert torch.equal(context[:4, :CHANNELS], structure.silence(4))
    assert torch.equal(structure.repaint_context(source, [])[:, :CHANNELS], source)


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (4, 3), (5, 11)])
def test_a_span_that_is_empty_or_leaves_the_source_is_refused(structure, span):
    with pytest.raises(DemonError, match=r"span is \[.*10 frames") as caught:
        structure.repaint_context(random_latents(10), [span])
    assert caught.value.code == "E_FIELD"
    with pytest.raises(DemonError, match="E_FIELD"):
        structure.track_context(random_latents(10), [span])
