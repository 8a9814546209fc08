# SPDX-License-Identifier: Apache-2.0
"""The Session API on a tiny checkpoint: what it refuses, what it promises, and what a stream does while it is played."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import soxr
import torch
from msgspec import structs
from safetensors.torch import save_file

from engine_server import session as session_module
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.gain import GainEntry, channel_gain
from engine_server.diffusion.noise import RequestNoise
from engine_server.model import windows as windows_module
from engine_server.model.lora import linear_shapes
from engine_server.modulation import Modulation
from engine_server.session import Session
from engine_server.session_options import SessionOptions
from engine_server.stream import MODULATION_FIELDS
from engine_server.types import Audio, Conditioning, Latent, NoiseMask, PreparedSource
from shared_protocol.errors import DemonError

RATE, HOP, CHANNELS = 48000, 1920, 64
FRAMES, STEPS = 37, 4
ENGINES = {"decoder": "d.engine", "vae_encode": "e.engine", "vae_decode": "v.engine"}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    with Session(str(tiny_folder)) as session:
        yield session


@pytest.fixture
def session(loaded):
    yield loaded
    loaded.close()


def noise(frames, seed=1, rate=RATE):
    generator = torch.Generator().manual_seed(seed)
    return Audio(0.1 * torch.randn(2, frames * rate // 25, generator=generator), rate)


@pytest.fixture(scope="module")
def source(loaded):
    return loaded.prepare_source(noise(FRAMES))


@pytest.fixture(scope="module")
def words(loaded):
    return loaded.encode_text(tags="strings")


@pytest.fixture(scope="module")
def other_words(loaded):
    return loaded.encode_text(tags="a much longer prompt about a church organ", lyrics="la la")


@pytest.fixture
def stream(session, source, words):
    """A stream of the source that takes whatever a test adds."""

    def opened(**given):
        return session.stream(**({"source": source, "conditioning": words} | given))

    return opened


@pytest.fixture
def one(session, source, words):
    """Latents of a single generation `[T, C]`."""

    def generated(**given):
        return session.generate(**({"source": source, "conditioning": words} | given)).frames

    return generated


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_backend": "fast"}, "decoder_backend is 'fast'; one of auto, eager, compile, tensorrt is expected"),
        ({"vae_backend": ""}, "vae_backend is ''"),
        (
            {"vae_backend": "tensorrt", "trt_engines": {"vae_encode": "e"}},
            r"vae_backend is 'tensorrt' without trt_engines\['vae_decode'\]",
        ),
        ({"trt_engines": {"decoder": "d"}}, r"trt_engines\['decoder'\] is given, but decoder_backend is 'eager'"),
        ({"trt_engines": {"vae_decode": "v"}}, r"trt_engines\['vae_decode'\] is given, but vae_backend is 'eager'"),
        ({"trt_engines": {"dit": "d"}}, "trt_engines holds 'dit'"),
        ({"vae_window": -1.0}, "vae_window is -1.0"),
        ({"vae_window": 0.03}, "vae_window is 0.03; 0.04 s or more"),
        ({"vae_window": math.nan}, "vae_window is nan"),
        ({"vae_window": math.inf}, "vae_window is inf"),
        ({"quantization": "int3"}, "quantization is 'int3'; int8, fp8 or None is expected"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(options, message, monkeypatch):
    loads = []
    monkeypatch.setattr(session_module, "load_chosen", lambda *given, **more: loads.append(given))
    with pytest.raises(ValueError, match=message):
        Session("there is no such checkpoint", **options)
    assert loads == []


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_backend": "tensorrt", "trt_engines": {"decoder": "d"}, "quantization": "int8"},
        {"decoder_backend": "tensorrt", "trt_engines": {"decoder": "d"}, "quantization": "fp8"},
        {"decoder_backend": "compile", "quantization": "int8"},
    ],
)
def test_what_this_version_cannot_run_is_refused_before_anything_is_loaded(options):
    with pytest.raises(DemonError) as caught:
        Session("there is no such checkpoint", **options)
    assert caught.value.code == "E_BACKEND"


def test_an_engine_that_is_not_there_is_told_with_what_builds_it():
    with pytest.raises(DemonError) as caught:
        Session("embedded", decoder_backend="tensorrt", trt_engines={"decoder": "no/engine.plan"})
    assert caught.value.code == "E_ENGINE_NOT_BUILT"
    assert "run: demon engines build --checkpoint embedded --decoder-only --duration 60" in caught.value.message


def test_a_codec_that_has_no_engines_is_told():
    with pytest.raises(DemonError, match=r"E_BACKEND: .*not ACE-Step's.*use vae_backend 'eager'"):
        Session("embedded", vae_backend="tensorrt", trt_engines={"vae_encode": "e", "vae_decode": "v"})


def test_a_model_that_is_not_there_is_the_error_once_the_options_are_right():
    with pytest.raises(DemonError) as caught:
        Session("/there/is/no/such/checkpoint")
    assert caught.value.code == "E_NO_CHECKPOINT"


@pytest.mark.parametrize("backend", ["auto", "eager", "compile"])
@pytest.mark.parametrize("window", [0, 0.0, 0.04, 3.0])
def test_sensible_options_are_taken(backend, window):
    assert SessionOptions(backend, backend, window, {}, None).vae_window == window


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_a_quantization_is_heard_told_in_receipts_and_near_the_float_model(
    tiny_folder, source, words, one, quantization
):
    with Session(str(tiny_folder), quantization=quantization) as session:
        assert session.checkpoint.backend == f"eager cpu {quantization}"
        quantized = session.generate(source=source, conditioning=words).frames
    plain = one()
    assert not torch.equal(quantized, plain)
    torch.testing.assert_close(quantized, plain, atol=0.1, rtol=0.1)


# Audio and latents


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (torch.zeros(3, 10), RATE, r"waveform has shape \(3, 10\)"),
        (torch.zeros(2, 0), RATE, r"waveform has shape \(2, 0\)"),
        (torch.zeros(1, 2, 10), RATE, "waveform has shape"),
        (torch.full((2, 10), math.nan), RATE, "finite floats"),
        (torch.full((2, 10), math.inf), RATE, "finite floats"),
        (torch.zeros(2, 10, dtype=torch.int16), RATE, "finite floats"),
        (torch.zeros(2, 10), 0, "sample_rate is 0"),
    ],
)
def test_bad_audio_is_refused(waveform, rate, message):
    for make in (Audio, Audio.of):
        with pytest.raises(ValueError, match=message):
            make(waveform, rate)


def test_mono_is_played_on_both_sides(session):
    mono = noise(10).waveform[0]
    both = session.encode_audio(Audio(torch.stack([mono, mono]), RATE)).frames
    for samples in (mono, mono[None], mono.numpy(), mono.double().numpy()):
        assert torch.equal(session.encode_audio(Audio.of(samples, RATE)).frames, both)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_audio_of_another_rate_is_resampled_to_the_models(session, rate):
    audio = noise(20, rate=rate)
    ours = soxr.resample(audio.waveform.T.numpy(), rate, RATE, quality="VHQ")
    prepared = session.prepare_source(audio)
    assert prepared.samples == len(ours) == 20 * HOP
    expected = session.encode_audio(Audio.of(ours.T.copy(), RATE))
    assert torch.equal(prepared.latent.frames, expected.frames)


def test_a_source_that_is_no_whole_number_of_frames_remembers_its_length(session):
    audio = Audio(noise(3).waveform[:, : 2 * HOP + 1], RATE)
    prepared = session.prepare_source(audio)
    assert (len(prepared), prepared.samples) == (3, 2 * HOP + 1)


def test_a_seed_samples_the_posterior_and_none_takes_its_mean(session):
    audio = noise(10)
    mean, first, again, second = (session.encode_audio(audio, seed=seed).frames for seed in (None, 1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, mean)
    assert torch.equal(mean, session.encode_audio(audio).frames)


def test_a_prepared_sources_parts_are_equally_long(source):
    with pytest.raises(ValueError, match=f"context_latent has 5 frames; the {FRAMES} of the latent are expected"):
        PreparedSource(source.latent, source.latent.part(0, 5), 0)


def test_silence_has_the_length_asked_for(session):
    assert len(session.empty_latent(1.01)) == 26
    assert torch.equal(session.empty_latent(0.04).frames[0], session.checkpoint.silence)
    for duration in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="duration is"):
            session.empty_latent(duration)


def test_hints_of_a_checkpoint_without_tokenizer_are_the_latents(session, source):
    assert torch.equal(session.extract_hints(source.latent).frames, source.latent.frames)


def test_hints_are_blended_exactly_at_both_ends_whatever_the_other_length(session, source):
    hints = source.context_latent
    for frames in (10, FRAMES, 60):
        other = session.prepare_source(noise(frames, seed=2)).context_latent
        fitted = session.checkpoint.structure.fit(other.frames, FRAMES)
        assert torch.equal(session.blend_hints(hints, other, 0.0).frames, hints.frames)
        assert torch.equal(session.blend_hints(hints, other, 1.0).frames, fitted)
        ramp = session.blend_hints(hints, other, [0.0, 1.0]).frames
        assert torch.equal(ramp[0], hints.frames[0])
        assert torch.equal(ramp[-1], fitted[-1])
    with pytest.raises(ValueError, match="amount"):
        session.blend_hints(hints, hints, math.nan)


# Conditioning


def test_a_condition_depends_on_all_that_is_told(session):
    told = {"tags": "strings", "lyrics": "la", "bpm": 90, "key": "A minor", "time_signature": 3, "duration": 20.0,
            "language": "de", "task": "repaint", "instruction": "Do it:"}  # fmt: skip
    plain = session.encode_text().first.states
    for name, value in told.items():
        states = session.encode_text(**{name: value}).first.states
        assert states.shape != plain.shape or not torch.equal(states, plain), name
    clip = session.timbre_reference(noise(30))
    heard = session.encode_text(timbre=[clip]).first.states
    assert not torch.equal(heard, plain)
    assert torch.equal(session.encode_text(timbre=[session.timbre_reference(noise(30), 0.0)]).first.states, plain)


@pytest.mark.parametrize(
    ("told", "code"),
    [({"task": "lego"}, "E_TASK"), ({"bpm": 5}, "E_FIELD"), ({"key": "H"}, "E_FIELD"), ({"language": "?"}, "E_FIELD")],
)
def test_what_the_model_cannot_be_told_is_refused(session, told, code):
    with pytest.raises(DemonError) as caught:
        session.encode_text(**told)
    assert caught.value.code == code


def test_the_null_prompt_has_the_shape_of_another(session, other_words):
    null = session.null_conditioning(other_words).first
    assert null.states.shape == other_words.first.states.shape
    assert torch.equal(null.mask, other_words.first.mask)


def test_blends_and_averages_are_exact_at_both_ends(words, other_words):
    assert words.blended(other_words, 0.0).first is words.first
    assert words.blended(other_words, 1.0).first is other_words.first
    assert torch.equal(words.averaged(other_words, 0.0).first.states, words.first.states)
    assert words.averaged(other_words, 0.5).first.states.shape == words.first.states.shape


def test_a_third_prompt_leaves_the_first_two_their_ratio(words, other_words):
    both = words.combined(other_words, weight=0.25)
    three = both.combined(words, weight=[0.0, 0.5])
    first, second, third = (torch.as_tensor(entry.weight).flatten().tolist() for entry in three.entries)
    assert (first, second, third) == ([0.75, 0.375], [0.25, 0.125], [0.0, 0.5])


def test_weights_of_different_lengths_are_stretched_to_the_longer(words):
    weights = words.combined(words, weight=[0.0, 0.5, 1.0]).combined(words, weight=[0.0, 1.0]).entries
    assert torch.as_tensor(weights[1].weight).flatten().tolist() == [0.0, 0.25, 0.0]


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, [0.0, 2.0]])
def test_a_share_beyond_all_or_nothing_is_refused(words, weight):
    with pytest.raises(ValueError, match="weight"):
        words.combined(words, weight=weight)


def test_a_prompt_with_all_the_weight_is_alone(one, words, other_words):
    # Both prompts are padded to one length, so that the lone one must be padded as in company.
    assert torch.equal(one(conditioning=words.combined(words, weight=0.0)), one(conditioning=words))
    swapped = one(conditioning=words.combined(other_words, weight=[0.0, 1.0]))
    assert not torch.equal(swapped, one())


def test_a_prompt_outside_its_part_of_the_schedule_is_not_heard(one, words, other_words):
    never = words.combined(other_words, weight=1.0, step_range=(0.0, 0.0))
    late = words.combined(other_words, weight=0.5, step_range=(0.5, 1.0))
    always = words.combined(other_words, weight=0.5)
    results = [one(conditioning=conditioning) for conditioning in (never, late, always)]
    assert not torch.equal(results[1], results[0])
    assert not torch.equal(results[1], results[2])


# One generation


def test_a_generation_is_a_function_of_its_arguments(one):
    first = one(seed=3)
    assert first.shape == (FRAMES, CHANNELS)
    assert bool(torch.isfinite(first).all())
    assert torch.equal(one(seed=3), first)
    assert not torch.equal(one(seed=4), first)


def test_nothing_global_is_read_or_advanced(one):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = one(method="sde")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(one(method="sde"), first)


def test_steps_and_shift_are_the_checkpoints_unless_given(session, one):
    settings = session.checkpoint.settings
    assert torch.equal(one(), one(steps=settings.steps, shift=settings.shift))
    assert not torch.equal(one(), one(steps=settings.steps + 1))
    assert not torch.equal(one(), one(shift=1.0))


def test_without_denoise_the_source_comes_back_exactly(one, source):
    assert torch.equal(one(denoise=0.0), source.latent.frames)


def test_a_source_is_the_same_as_its_parts(session, words, one, source):
    parts = session.generate(
        conditioning=words, source_latent=source.latent, context_latent=source.context_latent, denoise=0.5
    )
    assert torch.equal(parts.frames, one(denoise=0.5))


def test_text_alone_makes_a_piece_of_the_length_asked_for(session):
    words = session.encode_text(tags="choir", task="text2music")
    piece = session.generate(conditioning=words, duration=1.5)
    assert len(piece) == 38
    silence = session.empty_latent(1.5)
    assert torch.equal(piece.frames, session.generate(conditioning=words, context_latent=silence).frames)
    with pytest.raises(ValueError, match="needs a source"):
        session.generate(conditioning=words, duration=1.5, denoise=0.5)


def test_a_source_without_structure_sees_silence(session, words, source):
    silence = session.empty_latent(FRAMES / 25)
    given = {"conditioning": words, "source_latent": source.latent, "denoise": 0.6}
    assert torch.equal(session.generate(**given).frames, session.generate(context_latent=silence, **given).frames)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": 2**64}, "seed is"),
        ({"steps": 0}, "steps"),
        ({"method": "rk4"}, "solver is 'rk4'"),
        ({"pipeline_depth": 0}, "depth is 0"),
        ({"denoise": -0.5}, "denoise"),
        ({"denoise": math.nan}, "denoise holds NaN"),
        ({"sde_denoise_curve": 1.5}, "sde_denoise_curve leaves the range"),
        ({"sde_denoise_curve": 0.5, "source_blend": 0.5}, "sde_denoise_curve and source_blend are one control"),
        ({"rcfg_mode": "half"}, "rcfg_mode is 'half'; one of off, full, initialize, self is expected"),
        ({"apg_norm": "space"}, "apg_norm is 'space'"),
        ({"x0_target_curve": 0.5}, "x0_target"),
        ({"x0_target": Latent(torch.zeros(5, CHANNELS))}, "target has shape"),
        ({"noise_mask": NoiseMask(1.0, Latent(torch.zeros(5, CHANNELS)))}, "original has shape"),
        ({"channel_gain": torch.ones(1, 3)}, "channel_gain has shape"),
        ({"chunk_mask": [0.0, math.nan]}, "chunk_mask holds NaN"),
        ({"chunk_mask": torch.ones(1, FRAMES, 2)}, "chunk_mask has 2 channels; one is expected"),
        ({"sde_curve": 0.5}, "'sde_curve' is not taken; one of apg_momentum, .*velocity_scale"),
        ({"context_latent": Latent(torch.zeros(FRAMES, CHANNELS))}, "source is given, and so are parts of it"),
    ],
)
def test_arguments_that_do_not_fit_are_named(one, given, message):
    with pytest.raises(ValueError, match=message):
        one(**given)


def test_source_and_structure_of_different_lengths_are_refused(session, words, source):
    with pytest.raises(ValueError, match="context_latent has 5 frames"):
        session.generate(
            conditioning=words, source_latent=source.latent, context_latent=Latent(torch.zeros(5, CHANNELS))
        )


def acting(source, words):
    """For every field of `Modulation`: values that take it out of its neutral state, and what it needs beside it."""
    target = Latent(torch.ones(FRAMES, CHANNELS))
    pull, guided = {"x0_target": target, "x0_target_curve": 0.5}, {"guidance_curve": [1.5, 3.0]}
    return {
        "denoise": ([0.2, 0.9], {}),
        "velocity_scale": ([0.8, 1.2], {}),
        "sde_denoise_curve": ([0.2, 0.9], {"method": "sde"}),
        "source_blend": ([0.2, 0.9], {}),
        "ode_noise_curve": ([0.0, 0.5], {}),
        "initial_noise_curve": ([0.5, 1.0], {}),
        "x0_target": (Latent(-target.frames), pull),
        "x0_target_curve": ([0.9, 0.1], pull),
        "x0_target_strength": ([0.0, 0.9], {"x0_target": target}),
        "x0_target_gate": (0.6, pull),
        "guidance_curve": ([1.0, 4.0], {}),
        "negative": (words.combined(words), guided),
        "rcfg_mode": ("self", guided),
        "cfg_rescale": ([0.0, 1.0], guided),
        "apg_momentum": ([0.0, 0.5], guided),
        "apg_norm": ("time_rms", guided),
        "noise_mask": (NoiseMask([0.0, 1.0], source.latent), {}),
        "chunk_mask": ([1.0, 0.0, 0.0], {}),
        "channel_gain": (torch.linspace(0.5, 1.5, CHANNELS)[None], {}),
        "dcw": (DcwSettings(scaler=0.4), {}),
        "timesteps": ([1.0, 0.6, 0.2, 0.0], {}),
    }


def test_every_field_of_the_modulation_is_among_those_tested(source, words):
    assert set(acting(source, words)) == MODULATION_FIELDS


@pytest.mark.parametrize("name", sorted(MODULATION_FIELDS))
def test_every_modulation_is_heard(name, stream, source, words):
    value, beside = acting(source, words)[name]
    handle = stream()
    plain = handle.generate(**beside)
    assert not torch.equal(handle.generate(**(beside | {name: value})).frames, plain.frames)
    assert torch.equal(handle.generate(**beside).frames, plain.frames), "an override is for one request"


@pytest.mark.parametrize(
    "name", [field for field in sorted(MODULATION_FIELDS) if field.endswith(("curve", "scale", "strength"))]
)
def test_a_curve_of_two_values_is_a_ramp_over_the_piece(name, one, source, words):
    value, beside = acting(source, words)[name]
    ramp = value[0] + (value[1] - value[0]) * torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    torch.testing.assert_close(one(**(beside | {name: value})), one(**(beside | {name: ramp})), atol=1e-4, rtol=1e-4)


def test_gain_entries_are_taken_as_they_are_made(one):
    gain = channel_gain([GainEntry(0, 7, 0.5)])
    assert torch.equal(one(channel_gain=gain), one(channel_gain=gain[0]))


def test_a_mask_keeps_frames_exactly_whatever_else_acts(one, source):
    mask = torch.zeros(FRAMES)
    mask[10:20] = 1.0
    for given in ({}, {"method": "sde"}, {"guidance_curve": 2.0}, {"ode_noise_curve": 0.3}):
        made = one(noise_mask=NoiseMask(mask, source.latent), **given)
        assert torch.equal(made[mask == 0], source.latent.frames[mask == 0])
        assert not torch.equal(made[10:20], source.latent.frames[10:20])


# Repainting


@pytest.fixture
def context_of(session, source, words):
    """The context that the decoder is shown for a chunk mask, `[T, 2C]`."""

    def shown(structure=source.context_latent, **given):
        null = session.null_conditioning(words)
        context = session.checkpoint.structure.cover_context(structure.frames)
        plain = {"request_id": 0, "noise": RequestNoise(0), "source": None, "steps": 1, "shift": 1.0, "method": "ode"}
        request = Modulation(**given).slot_request(
            conditioning=words, null=null, context=context, tokens=1, adapters=None, **plain
        )
        return request.context

    return shown


def test_a_chunk_mask_is_zeros_and_ones_in_every_mask_channel(context_of, source):
    values = torch.zeros(FRAMES)
    values[3:9], values[20] = torch.tensor([1.0, 0.5, 0.01, -1.0, 7.0, 1.0]), 0.2
    context = context_of(chunk_mask=values)
    assert torch.equal(context[:, :CHANNELS], source.context_latent.frames)
    assert torch.equal(context[:, CHANNELS:], (values != 0).float()[:, None].expand(-1, CHANNELS))
    for everything in (None, 1.0, True, 0.3):
        assert torch.equal(context_of(chunk_mask=everything), context_of())
    assert not context_of(chunk_mask=0)[:, CHANNELS:].any()


SPANS = [
    ([(0.4, 0.8)], [(10, 20)]),
    ([(0.28, 1.16)], [(7, 29)]),  # 0.28 * 25 and 1.16 * 25 are not whole in floating point
    ([(0.41, 0.79)], [(10, 20)]),
    ([(0.39, 0.81)], [(9, 21)]),
    ([(0.0, FRAMES / 25)], [(0, FRAMES)]),
    ([(0.0, 0.01), (1.0, 1.2), (1.1, 1.44)], [(0, 1), (25, 36)]),
    ([], []),
]


@pytest.mark.parametrize(("spans_s", "spans"), SPANS)
def test_a_repaint_shows_the_source_with_silence_in_the_spans(spans_s, spans, session, source, context_of):
    repaint = session.repaint(source, spans_s)
    context = context_of(repaint["context_latent"], chunk_mask=repaint["chunk_mask"])
    assert torch.equal(context, session.checkpoint.structure.repaint_context(source.latent.frames, spans))
    inside = torch.zeros(FRAMES, dtype=torch.bool)
    for first, stop in spans:
        inside[first:stop] = True
    shown = repaint["context_latent"].frames
    assert torch.equal(shown[~inside], source.latent.frames[~inside])
    assert torch.equal(shown[inside], session.empty_latent(FRAMES / 25).frames[inside])


@pytest.mark.parametrize(
    "span", [(-0.1, 0.5), (0.5, 0.4), (0.0, 1.49), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf)]
)
def test_a_span_outside_the_source_is_refused(span, session, source):
    with pytest.raises(ValueError, match=r"spans_s holds .*; 0 <= start < stop <= 1.48 s of the source are expected"):
        session.repaint(source, [span])


def test_a_span_without_length_is_refused(session, source):
    with pytest.raises(DemonError, match=r"span is \[25, 25\)"):
        session.repaint(source, [(1.0, 1.0)])


def test_repainting_everything_is_making_it_from_nothing(session, source):
    words = session.encode_text(tags="choir", task="repaint")
    everything = session.repaint(source, [(0.0, FRAMES / 25)])
    repainted = session.generate(conditioning=words, seed=2, **everything)
    assert torch.equal(repainted.frames, session.generate(conditioning=words, seed=2, duration=FRAMES / 25).frames)
    part = session.generate(conditioning=words, seed=2, **session.repaint(source, [(0.4, 0.8)]))
    assert len(part) == FRAMES
    assert not torch.equal(part.frames, repainted.frames)


def test_a_repaint_depends_on_the_kept_frames_only(session, words, source):
    spans_s = [(0.4, 0.8)]
    changed = source.latent.frames.clone()
    changed[10:20] += 1.0
    other = PreparedSource(Latent(changed), source.context_latent, source.samples)
    first, second = (
        session.generate(conditioning=words, **session.repaint(each, spans_s)).frames for each in (source, other)
    )
    assert torch.equal(first, second)
    changed[30] += 1.0
    assert not torch.equal(session.generate(conditioning=words, **session.repaint(other, spans_s)).frames, first)


def test_a_repaint_with_a_noise_mask_keeps_frames_exactly(session, words, source):
    repaint = session.repaint(source, [(0.4, 0.8)])
    mask = NoiseMask(repaint["chunk_mask"], source.latent)
    made = session.generate(conditioning=words, source_latent=source.latent, noise_mask=mask, **repaint).frames
    kept = repaint["chunk_mask"] == 0
    assert torch.equal(made[kept], source.latent.frames[kept])
    assert not torch.equal(made[~kept], source.latent.frames[~kept])


# Streams


def test_a_generation_is_a_drained_stream_bit_for_bit(session, one, stream):
    handle = stream(admission="queue", denoise=0.8)
    numbers = [handle.submit(seed=seed, method=method) for seed, method in ((1, "ode"), (2, "sde"), (3, "ode"))]
    drained = {latent.request_id: latent.frames for latent in handle.drain()}
    assert list(drained) == numbers
    for number, seed, method in zip(numbers, (1, 2, 3), ("ode", "sde", "ode"), strict=True):
        assert torch.equal(drained[number], one(denoise=0.8, seed=seed, method=method))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_every_generation_of_a_stream_is_the_one_made_alone(depth, one, stream):
    handle = stream(pipeline_depth=depth)
    streamed = {}
    for seed in range(10):
        for latent in handle.tick(seed=seed, denoise=1.0 - seed / 20):
            streamed[latent.request_id] = latent.frames
    streamed |= {latent.request_id: latent.frames for latent in handle.drain()}
    assert len(streamed) > 1
    for number, frames in streamed.items():
        assert torch.equal(frames, one(seed=number, denoise=1.0 - number / 20))


def test_a_full_stream_finishes_one_generation_per_tick(stream):
    handle = stream()
    counts = [len(handle.tick(seed=seed)) for seed in range(3 * STEPS)]
    assert counts == [0] * (STEPS - 1) + [1] * (2 * STEPS + 1)
    stats = handle.stats()
    assert (stats.ticks, stats.depth, stats.waiting) == (3 * STEPS, STEPS, 0)


def test_a_new_prompt_and_a_new_structure_are_in_the_next_request_only(one, session, stream, words, other_words):
    structure = session.prepare_source(noise(FRAMES, seed=9)).context_latent
    handle = stream(admission="queue")
    handle.submit()
    handle.advance()
    handle.conditioning = other_words
    handle.submit()
    handle.advance()
    handle.conditioning, handle.context_latent = words, structure
    handle.submit()
    results = {latent.request_id: latent.frames for latent in handle.drain()}
    assert torch.equal(results[0], one())
    assert torch.equal(results[1], one(conditioning=other_words))
    alone = session.generate(conditioning=words, source_latent=handle.source.latent, context_latent=structure)
    assert torch.equal(results[2], alone.frames)


@pytest.mark.parametrize("frames", [20, 38, 90])
def test_a_new_source_of_another_length_is_in_the_next_request_only(frames, one, session, stream, source):
    longer = session.prepare_source(noise(frames, seed=3))
    handle = stream(denoise=0.7, admission="queue")
    handle.submit()
    handle.advance()
    handle.source = longer
    handle.submit()
    handle.advance()
    handle.source = source
    handle.submit()
    results = {latent.request_id: latent.frames for latent in handle.drain()}
    assert torch.equal(results[0], one(denoise=0.7))
    assert torch.equal(results[1], one(source=longer, denoise=0.7))
    assert torch.equal(results[2], one(denoise=0.7))


def test_structure_of_another_length_than_the_source_is_refused(stream):
    handle = stream()
    handle.context_latent = Latent(torch.zeros(5, CHANNELS))
    with pytest.raises(ValueError, match=f"context_latent has 5 frames; the {FRAMES} of the source are expected"):
        handle.tick()


def test_a_tick_refuses_unknown_names_and_keeps_what_flies(stream, one):
    handle = stream()
    handle.tick(seed=1)
    with pytest.raises(ValueError, match="'denoize' is not taken"):
        handle.tick(denoize=0.5)
    with pytest.raises(ValueError, match="denoise"):
        handle.tick(denoise=-1)
    assert [torch.equal(latent.frames, one(seed=1)) for latent in handle.drain()] == [True]


def test_a_stream_refuses_unknown_names_at_once(stream):
    with pytest.raises(ValueError, match="'denoize' is not taken"):
        stream(denoize=0.5)


def test_base_values_hold_until_overridden(stream, one):
    handle = stream(denoise=0.5, seed=4)
    assert torch.equal(handle.generate().frames, one(denoise=0.5, seed=4))
    assert torch.equal(handle.generate(seed=5).frames, one(denoise=0.5, seed=5))


def test_what_finishes_while_another_is_waited_for_is_not_lost(stream, one):
    handle = stream()
    for seed in range(2):
        assert handle.tick(seed=seed) == []
    assert torch.equal(handle.generate(seed=7).frames, one(seed=7))
    finished = handle.advance()
    assert [latent.request_id for latent in finished] == [0, 1]
    assert all(torch.equal(latent.frames, one(seed=latent.request_id)) for latent in finished)
    assert handle.drain() == []


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("velocity_scale", "velocity_scale", [0.5, 1.2]),
        ("source_blend", "source_blend", [0.5, 1.0]),
        ("sde_denoise_curve", "sde_denoise_curve", 0.5),
        ("ode_noise_curve", "ode_noise_curve", [0.0, 0.4]),
        ("ode_noise", "ode_noise_curve", 0.3),
        ("x0_target_curve", "x0_target_curve", [0.0, 0.9]),
        ("x0_target_strength", "x0_target_strength", 0.4),
        ("x0_target_gate", "x0_target_gate", 0.5),
        ("guidance_curve", "guidance_curve", [1.0, 3.0]),
        ("cfg_rescale_curve", "cfg_rescale", 0.5),
        ("apg_momentum", "apg_momentum", 0.3),
    ],
)
def test_a_shared_curve_acts_as_the_same_value_in_every_request(name, field, value, stream, one):
    base = {"x0_target": Latent(torch.ones(FRAMES, CHANNELS)), "x0_target_curve": 0.2, "guidance_curve": 2.0}
    if field == "x0_target_strength":
        base.pop("x0_target_curve")
    handle = stream(**base)
    handle.pipeline.set_shared_curve(name, value)
    shared = handle.generate().frames
    assert torch.equal(shared, one(**(base | {field: value})))
    assert not torch.equal(shared, one(**base))
    handle.pipeline.set_shared_curve(name, None)
    assert torch.equal(handle.generate().frames, one(**base))


def test_a_shared_value_is_heard_by_what_already_flies(stream, one):
    handle = stream()
    handle.tick(seed=1)
    handle.pipeline.set_shared_curve("velocity_scale", 0.5)
    (changed,) = handle.drain()
    assert not torch.equal(changed.frames, one(seed=1))
    assert not torch.equal(changed.frames, one(seed=1, velocity_scale=0.5))


@pytest.mark.parametrize(("name", "value"), [("denoise", 0.5), ("speed", 1.0), ("velocity_scale", math.nan)])
def test_what_cannot_be_shared_is_refused(name, value, stream):
    with pytest.raises(ValueError, match=name):
        stream().pipeline.set_shared_curve(name, value)


def test_shared_channel_gain_acts_as_the_same_gain_in_every_request(stream, one):
    gain = torch.linspace(0.5, 1.5, CHANNELS)[None]
    handle = stream()
    handle.pipeline.set_channel_gain_tensor(gain)
    assert torch.equal(handle.generate().frames, one(channel_gain=gain))
    handle.pipeline.set_channel_gain_tensor(None)
    assert torch.equal(handle.generate().frames, one())


def test_shared_wavelet_correction_can_be_changed_and_switched_off(stream, one):
    handle = stream()
    handle.pipeline.set_dcw(enabled=True, scaler=0.3)
    assert torch.equal(handle.generate().frames, one(dcw=DcwSettings(scaler=0.3)))
    handle.pipeline.set_dcw(enabled=False)
    assert torch.equal(handle.generate().frames, one(dcw=None))
    with pytest.raises(ValueError, match="unknown"):
        handle.pipeline.set_dcw(strength=1.0)


@pytest.mark.parametrize("wanted", [False, True])
def test_by_default_a_generation_is_corrected_where_that_suits_the_checkpoint(wanted, session, one, monkeypatch):
    settings = structs.replace(session.checkpoint.settings, dcw=wanted)
    monkeypatch.setattr(session, "checkpoint", replace(session.checkpoint, settings=settings))
    expected = one(dcw=DcwSettings() if wanted else None)
    assert torch.equal(one(), expected)
    assert not torch.equal(one(dcw=None if wanted else DcwSettings()), expected)


def test_changes_of_depth_lose_no_generation_and_change_none(stream, one):
    handle = stream(pipeline_depth=2, admission="queue")
    numbers = [handle.submit(seed=seed) for seed in range(9)]
    finished = []
    for depth in (2, 4, 4, 1, 1, 1, 3):
        handle.pipeline.set_depth(depth)
        finished += handle.advance()
        assert handle.stats().depth == depth
    finished += handle.drain()
    assert sorted(latent.request_id for latent in finished) == numbers
    assert all(torch.equal(latent.frames, one(seed=latent.request_id)) for latent in finished)


def test_a_closed_stream_takes_nothing_more_and_can_be_closed_again(stream):
    handle = stream()
    handle.tick()
    for _ in range(2):
        handle.close()
        assert handle.advance() == []
        assert handle.stats().active_slots == 0
        with pytest.raises(RuntimeError, match="the stream is closed"):
            handle.submit()


def test_closing_a_session_closes_its_streams_and_takes_out_its_loras(tiny_folder, source, words, lora_file):
    session = Session(str(tiny_folder))
    handle = session.stream(source=source, conditioning=words)
    session.apply_lora(lora_file(1))
    for _ in range(2):
        session.close()
        assert session.loras.entries() == []
        with pytest.raises(RuntimeError, match="closed"):
            handle.tick()


# Decoding


def test_a_window_sounds_like_that_part_of_the_whole(tiny_folder, session, one):
    latent = Latent(one())
    whole = session.decode_full(latent).waveform
    assert whole.shape == (2, FRAMES * HOP)
    windowed = Session(str(tiny_folder), vae_window=0.4)
    for t_start in (0.0, 0.05, 0.5, 1.0, 9.0):
        part = windowed.decode(latent, t_start=t_start)
        assert part.start_sample == min(int(t_start * 25), FRAMES - 10) * HOP
        expected = whole[:, part.start_sample : part.start_sample + 10 * HOP]
        torch.testing.assert_close(part.waveform, expected, atol=1e-6, rtol=0)


def test_without_a_window_a_decode_is_whole_wherever_it_starts(session, one):
    latent = Latent(one())
    whole = session.decode_full(latent)
    assert torch.equal(session.decode(latent, t_start=0.7).waveform, whole.waveform)
    assert (whole.start_sample, whole.sample_rate, whole.duration_s) == (0, RATE, FRAMES / 25)


def test_a_streams_decode_is_the_sessions(tiny_folder, source, words):
    with Session(str(tiny_folder), vae_window=0.2) as session:
        handle = session.stream(source=source, conditioning=words)
        latent = handle.generate()
        ours, theirs = (each.decode(latent, t_start=0.5) for each in (handle, session))
    assert torch.equal(ours.waveform, theirs.waveform)
    assert ours.waveform.shape[1] == 5 * HOP


def test_a_window_of_a_loop_reaches_over_its_end(tiny_folder, session, one):
    latent = Latent(one())
    whole = session.decode_full(latent, cyclic=True).waveform
    with Session(str(tiny_folder), vae_window=0.4) as windowed:
        part = windowed.decode(latent, t_start=(FRAMES - 4) / 25, cyclic=True).waveform
    expected = torch.cat([whole[:, -4 * HOP :], whole[:, : 6 * HOP]], dim=1)
    torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)


def test_audio_of_a_latent_lies_where_the_latent_does(session, one):
    latent = Latent(one(), origin_frame=100)
    assert session.decode(latent).start_sample == 100 * HOP
    assert session.decode_window(latent, 5, 10).start_sample == 105 * HOP


# Pieces beyond one window

LONG = 93
"""No multiple of 10, so that the last window reaches beyond the end."""


@pytest.fixture
def sliding(monkeypatch):
    """Windows of 40 frames that overlap by 20 and more, for pieces of more than 50."""
    monkeypatch.setattr(windows_module, "LONGEST_WINDOW", 50)
    monkeypatch.setattr(windows_module, "SLIDING_WINDOW", 40)
    monkeypatch.setattr(windows_module, "SLIDING_OVERLAP", 20)
    monkeypatch.setattr(session_module, "SLIDING_CROSSFADE", 10)


@pytest.fixture
def long_source(session):
    return session.prepare_source(noise(LONG, seed=4))


@pytest.mark.usefixtures("sliding")
def test_a_long_piece_is_made_in_windows_tagged_with_their_origin(stream, long_source):
    handle = stream(source=long_source, admission="queue")
    handle.submit_windows()
    windows = handle.drain()
    assert [latent.origin_frame for latent in windows] == [0, 20, 40, 60]
    assert {len(latent) for latent in windows} == {40}


@pytest.mark.usefixtures("sliding")
def test_a_long_piece_is_whole_and_as_its_windows_are(session, stream, words, long_source):
    given = {"conditioning": words, "source": long_source, "denoise": [0.2, 0.9], "seed": 3}
    piece = session.generate(**given)
    assert (len(piece), piece.origin_frame) == (LONG, 0)
    assert torch.equal(session.generate(**given, pipeline_depth=3).frames, piece.frames)
    handle = stream(**given)
    handle.seek(40 / 25)
    window = handle.generate()
    assert window.origin_frame == 20
    # Overlaps of 20 fade over 10 in their middle: between frames 15 and 25 of this window none of its neighbours is heard.
    assert torch.equal(piece.frames[35:45], window.frames[15:25])


@pytest.mark.usefixtures("sliding")
def test_without_denoise_a_long_source_comes_back_exactly(session, words, long_source):
    piece = session.generate(conditioning=words, source=long_source, denoise=0.0)
    assert torch.equal(piece.frames, long_source.latent.frames)


@pytest.mark.usefixtures("sliding")
@pytest.mark.parametrize("method", ["ode", "sde"])
def test_overlapping_windows_start_from_the_same_noise(method, session, stream, long_source):
    # With velocity 0 everywhere, what comes out is a mixture of the noises of all steps.
    handle = stream(source=long_source, admission="queue", steps=2, velocity_scale=0.0, dcw=None, method=method)
    handle.submit_windows()
    windows = {latent.origin_frame: latent.frames for latent in handle.drain()}
    for origin in (0, 20, 40):
        assert torch.equal(windows[origin][20:], windows[origin + 20][:20])
    assert not torch.equal(windows[0][:20], windows[20][:20])


@pytest.mark.usefixtures("sliding")
def test_prompts_of_a_long_piece_cross_fade_once(stream, long_source, words, other_words):
    without_noise = {"initial_noise_curve": 0.0}  # it depends on the length of the piece
    whole = stream(source=long_source, conditioning=words.combined(other_words, weight=[0.0, 1.0]), **without_noise)
    whole.seek(60 / 25)
    first = PreparedSource(long_source.latent.part(40, 40), long_source.context_latent.part(40, 40), 0)
    shares = torch.linspace(0.0, 1.0, LONG, dtype=torch.float64)[40:80]
    alone = stream(source=first, conditioning=words.combined(other_words, weight=shares), **without_noise)
    torch.testing.assert_close(whole.generate().frames, alone.generate().frames, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("sliding")
@pytest.mark.parametrize("name", sorted(MODULATION_FIELDS))
def test_every_modulation_is_cut_to_its_window(name, session, stream, words):
    source = session.prepare_source(noise(LONG, seed=4))
    value, beside = acting(source, words)[name]
    beside = {**beside, **({"x0_target": Latent(torch.ones(LONG, CHANNELS))} if "x0_target" in beside else {})}
    if name == "x0_target":
        value = Latent(-torch.ones(LONG, CHANNELS))
    handle = stream(source=source)
    handle.seek(99.0)
    plain, changed = handle.generate(**beside), handle.generate(**(beside | {name: value}))
    assert changed.origin_frame == 60
    assert not torch.equal(changed.frames, plain.frames)


@pytest.mark.parametrize("name", ["denoise", "velocity_scale", "x0_target_curve", "cfg_rescale"])
def test_a_windows_part_of_a_curve_is_that_of_the_piece(name):
    ramp = torch.linspace(0.0, 1.0, LONG)
    part = getattr(Modulation(**{name: [0.0, 1.0]}).within(60, 40, LONG), name)
    torch.testing.assert_close(part.flatten()[: LONG - 60], ramp[60:], atol=1e-6, rtol=0)
    assert (part.flatten()[LONG - 60 :] == 1.0).all(), "the last value is held beyond the end"


def test_a_windows_part_of_a_chunk_mask_is_that_of_the_piece():
    mask = (torch.arange(LONG) % 7 == 0).float()
    part = Modulation(chunk_mask=mask).within(20, 40, LONG).chunk_mask
    assert torch.equal(part.flatten(), mask[20:60])


@pytest.mark.usefixtures("sliding")
def test_a_long_piece_is_repainted_in_windows(session, stream, words, long_source):
    repaint = session.repaint(long_source, [(1.0, 2.0)])
    piece = session.generate(conditioning=words, **repaint)
    assert len(piece) == LONG
    handle = stream(source=long_source, chunk_mask=repaint["chunk_mask"], has_source=False)
    handle.context_latent = repaint["context_latent"]
    handle.seek(40 / 25)
    assert torch.equal(piece.frames[35:45], handle.generate().frames[15:25])


@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_windows_part_of_a_gain_is_that_of_the_piece(batch):
    gain = torch.rand(*batch, LONG, CHANNELS, generator=torch.Generator().manual_seed(1))
    part = Modulation(channel_gain=gain).within(60, 40, LONG).channel_gain
    assert torch.equal(part[: LONG - 60], gain.reshape(LONG, CHANNELS)[60:])
    constant = gain[..., :1, :]
    assert torch.equal(Modulation(channel_gain=constant).within(60, 40, LONG).channel_gain, constant)


@pytest.mark.usefixtures("sliding")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x0_target": Latent(torch.zeros(40, CHANNELS))}, "x0_target has 40 frames; the 93 of the piece are expected"),
        ({"noise_mask": NoiseMask(1.0, Latent(torch.zeros(40, CHANNELS)))}, "noise_mask.original has 40 frames"),
        ({"channel_gain": torch.ones(40, CHANNELS)}, "channel_gain has 40 frames"),
    ],
)
def test_what_is_shorter_than_a_long_piece_is_refused(given, message, stream, long_source):
    with pytest.raises(ValueError, match=message):
        stream(source=long_source).tick(**given)


@pytest.mark.usefixtures("sliding")
def test_seeking_takes_the_window_around_a_time(stream, long_source, source):
    handle = stream(source=long_source)
    for playhead_s, origin in ((-5.0, 0), (0.0, 0), (1.6, 20), (2.4, 40), (99.0, 60), (0.0, 0)):
        handle.seek(playhead_s)
        assert handle.origin_frame == handle.generate().origin_frame == origin
    handle.source = source
    assert handle.origin_frame == 0
    assert len(handle.generate()) == FRAMES


@pytest.mark.usefixtures("sliding")
def test_a_long_piece_of_text_alone_has_its_length(session, words):
    assert len(session.generate(conditioning=words, duration=LONG / 25)) == LONG


def test_four_minutes_fit_one_window_and_more_slide(session):
    assert len(session.windows_of(6000)) == 1
    windows = session.windows_of(6001)
    assert {len(window) for window in windows} == {1500}
    assert windows[-1].stop == 6010


# LoRAs


@pytest.fixture(scope="module")
def lora_file(loaded, tmp_path_factory):
    """A file of random factors for the decoder's self-attention, as PEFT writes it."""
    folder = tmp_path_factory.mktemp("loras")

    def written(seed):
        generator = torch.Generator().manual_seed(seed)
        factors = {
            f"base_model.model.{name}.{factor}.weight": 0.3 * torch.randn(shape, generator=generator)
            for name, (outside, inside) in linear_shapes(loaded.checkpoint.transformer).items()
            if ".self_attn." in name
            for factor, shape in (("lora_A", (2, inside)), ("lora_B", (outside, 2)))
        }
        path = folder / f"lora{seed}.safetensors"
        save_file(factors, path)
        return path

    return written


def test_a_lora_is_heard_by_its_strength_and_removing_it_restores_every_bit(session, one, lora_file):
    bare = one()
    lora = session.apply_lora(lora_file(1), scale=0.5)
    assert lora == "lora1"
    half = one()
    session.set_lora_strength(lora, 1.0)
    full = one()
    session.set_lora_strength(lora, 0.0)
    assert torch.equal(one(), bare)
    session.set_lora_strength(lora, 0.5)
    assert torch.equal(one(), half)
    assert 0 < (half - bare).abs().mean() < (full - bare).abs().mean()
    assert session.remove_last_lora() == lora
    assert session.remove_last_lora() is None
    assert torch.equal(one(), bare)


def test_loras_are_stacked_and_taken_off_one_by_one(session, one, lora_file):
    bare = one()
    session.apply_lora(lora_file(1))
    first = one()
    session.apply_lora(lora_file(2))
    both = one()
    assert not torch.equal(both, first)
    assert session.remove_last_lora() == "lora2"
    assert torch.equal(one(), first)
    session.apply_lora(lora_file(2))
    assert torch.equal(one(), both)
    session.apply_lora(lora_file(1), scale=2.0)  # applied again: the same one, now last
    assert [entry.id for entry in session.loras.entries()] == ["lora1", "lora2"]
    assert session.remove_last_lora() == "lora1"
    session.remove_loras()
    assert torch.equal(one(), bare)


def test_a_stream_hears_a_lora_at_its_next_tick_and_its_removal_too(session, stream, one, lora_file):
    bare = one(seed=1)
    handle = stream()
    handle.tick(seed=1)
    session.apply_lora(lora_file(1))
    (under_way,) = handle.drain()
    assert not torch.equal(under_way.frames, bare)
    assert not torch.equal(under_way.frames, one(seed=1)), "its first step was bare"
    assert torch.equal(handle.generate(seed=1).frames, one(seed=1))
    session.set_lora_strength("lora1", 0.5)
    assert torch.equal(handle.generate(seed=1).frames, one(seed=1))
    session.remove_last_lora()
    assert torch.equal(handle.generate(seed=1).frames, bare)


def test_loras_come_and_go_while_a_generation_flies(session, stream, one, lora_file):
    handle = stream()
    results = []
    for change in (
        lambda: session.apply_lora(lora_file(1)),
        lambda: session.apply_lora(lora_file(2)),
        lambda: session.set_lora_strength("lora1", 0.3),
        session.remove_last_lora,
        lambda: session.apply_lora(lora_file(3)),
        session.remove_loras,
    ):
        results += handle.tick(seed=1)
        change()
    results += handle.drain()
    assert len(results) == 6
    assert all(bool(torch.isfinite(latent.frames).all()) for latent in results)
    assert torch.equal(handle.generate(seed=1).frames, one(seed=1))


def test_a_lora_that_cannot_be_one_is_refused_and_leaves_nothing(session, one, tmp_path):
    bare = one()
    (tmp_path / "no.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DemonError) as caught:
        session.apply_lora(tmp_path / "no.safetensors")
    assert caught.value.code == "E_LORA_FILE"
    assert session.loras.entries() == []
    assert torch.equal(one(), bare)
    with pytest.raises(DemonError) as caught:
        session.set_lora_strength("nobody", 1.0)
    assert caught.value.code == "E_NO_LORA"


def test_the_same_conditioning_can_be_used_by_two_sessions(tiny_folder, words, source, one):
    with Session(str(tiny_folder)) as other:
        assert torch.equal(other.generate(conditioning=Conditioning.of(words.first), source=source).frames, one())


def test_a_request_has_the_strengths_that_it_names_and_the_sessions_of_the_others(session, one, stream, lora_file):
    first = session.apply_lora(lora_file(1), scale=0.5)
    second = session.apply_lora(lora_file(2), scale=0.25)
    named = one(loras={first: 1.0})
    defaults = one()
    handle = stream()
    assert torch.equal(handle.generate(loras={first: 1.0}).frames, named)
    assert torch.equal(handle.generate().frames, defaults)
    assert torch.equal(stream(loras={first: 1.0}).generate().frames, named)
    assert torch.equal(stream(loras={first: 1.0}).generate(loras=None).frames, defaults)
    off = one(loras={first: 0.0, second: 0.0})
    session.set_lora_strength(first, 1.0)
    assert torch.equal(one(), named)
    session.remove_loras()
    assert torch.equal(one(), off)
    assert torch.equal(one(loras={}), off)


def test_a_change_of_strength_reaches_in_flight_those_that_name_none(session, one, stream, lora_file):
    lora = session.apply_lora(lora_file(1), scale=0.5)
    handle = stream(admission="queue")
    own, shared = handle.submit(loras={lora: 0.8}), handle.submit()
    handle.advance()
    handle.advance()
    session.set_lora_strength(lora, 0.1)
    results = {latent.request_id: latent.frames for latent in handle.drain()}
    assert torch.equal(results[own], one(loras={lora: 0.8}))
    assert not torch.equal(results[shared], one(loras={lora: 0.5}))
    assert not torch.equal(results[shared], one(loras={lora: 0.1}))


@pytest.mark.parametrize(
    ("strengths", "code"),
    [({"choir": 1.0}, "E_NO_LORA"), ({"lora1": math.nan}, "E_LORA_STRENGTH")],
)
def test_strengths_that_do_not_fit_are_refused(strengths, code, session, one, lora_file):
    session.apply_lora(lora_file(1))
    with pytest.raises(DemonError) as caught:
        one(loras=strengths)
    assert caught.value.code == code


# Audio info


def test_what_audio_tells_of_itself_can_be_told_to_the_model(session):
    rate = 22050
    beat = torch.zeros(6 * rate)
    beat[:: rate // 2] = 1.0  # 120 a minute
    time = torch.arange(len(beat)) / rate
    chord = sum(torch.sin(2 * torch.pi * hz * time) for hz in (220.0, 261.63, 329.63, 220.0))
    info = session.audio_info(Audio.of(0.1 * chord + 0.5 * beat, rate))
    assert info == (120, "A minor", 6.0)
    session.encode_text(bpm=info.bpm, key=info.key)
