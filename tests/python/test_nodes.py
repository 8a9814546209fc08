# SPDX-License-Identifier: Apache-2.0
"""The nodes: what their definitions promise, and that each does what the Session does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from engine_server.audio_info import KEYS, RATE, estimate_key, estimate_tempo, mono
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.nodes import NODE_TYPES, node_type, validate_connection
from engine_server.nodes.definition import Kind, NodeDefinition, NodeParam, NodePort, Wire, may_connect
from engine_server.nodes.document import document
from engine_server.nodes.node import Node, node
from engine_server.nodes.types import ClipHandle, MaskedLatent, ModelHandle, VaeHandle
from engine_server.session import Session
from engine_server.types import Audio, Conditioning, Latent
from shared_protocol.errors import DemonError

NAMES = {
    "LoadModel", "LoRA", "ChannelGuidance", "RemoveChannelGuidance", "EncodeText", "EncodeConditioning",
    "ConditioningZeroOut", "ConditioningAverage", "ConditioningBlend", "ConditioningCombine", "CurveConstant",
    "CurveRamp", "CurveWave", "CurveMath", "TemporalMask", "SetLatentNoiseMask", "InvertMask", "DiffusionConfig",
    "OdeSolver", "SdeSolver", "DCWConfig", "Modulation", "StreamDenoise", "Generate", "SemanticExtract",
    "VAEEncodeAudio", "VAEDecodeAudio", "StreamVAEDecode", "EmptyLatent", "LatentBlend", "LatentChannelScale",
    "AudioInfo",
}  # fmt: skip
FRAMES = 20
WORDS = {
    "tags": "string ensemble",
    "bpm": 100,
    "key": "A minor",
    "time_signature": 3,
    "duration": 30.0,
    "task": "cover",
}


@pytest.fixture(scope="module")
def session(tiny_folder):
    with Session(str(tiny_folder), device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def model(session):
    return ModelHandle(session)


@pytest.fixture(scope="module")
def prompt(session):
    return session.encode_text(**WORDS)


@pytest.fixture(scope="module")
def other(session):
    return session.encode_text(tags="a much longer description of quite another sound")


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    """A LoRA for one Linear of the tiny checkpoint."""
    path = tmp_path_factory.mktemp("loras") / "choir.safetensors"
    generator = torch.Generator().manual_seed(3)
    factors = {
        f"layers.0.self_attn.to_q.{factor}.weight": torch.randn(shape, generator=generator)
        for factor, shape in (("lora_A", (4, 32)), ("lora_B", (64, 4)))
    }
    save_file(factors, path)
    return path


def call(name, **given):
    """The outputs of a fresh node; the value itself where there is one output."""
    outputs = node_type(f"acestep.{name}")()(**given)
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def latent_of(seed, frames=FRAMES):
    return Latent(torch.randn(frames, 64, generator=torch.Generator().manual_seed(seed)))


def sine(hz, seconds, rate=RATE):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def clicks(bpm, seconds=12):
    samples = np.zeros(RATE * seconds)
    for at in np.arange(0, seconds - 0.1, 60 / bpm):
        first = int(at * RATE)
        samples[first : first + 400] += np.exp(-np.arange(400) / 60) * sine(1000, 1)[:400]
    return samples


def scale(tonic, intervals):
    """The notes of a scale one after another, the triad of the tonic last and longer."""
    hz = 440 * 2 ** ((np.array(intervals) + tonic - 9) / 12)
    triad = sum(sine(hz[place], 1.5) for place in (0, 2, 4))
    return np.concatenate([*(sine(note, 0.3) for note in hz), triad])


MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)

# Definitions


def test_there_are_32_nodes():
    assert {name.removeprefix("acestep.") for name in NODE_TYPES} == NAMES
    assert len(NODE_TYPES) == 32


@pytest.mark.parametrize("name", NODE_TYPES)
def test_every_definition_is_complete(name):
    definition = NODE_TYPES[name].definition
    assert definition.node_type_id == name
    assert definition.display_name
    assert definition.category
    assert definition.description
    assert definition.outputs
    for param in definition.params:
        assert bool(param.options) == (param.type is Kind.SELECT)


def test_the_documentation_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "nodes.md"
    assert page.read_text(encoding="utf-8") == document(), "run python -m engine_server.nodes.document"


def test_a_node_that_reads_what_it_does_not_declare_is_not_registered():
    class Undeclared(Node):
        def execute(self, *, depth):
            return depth

    with pytest.raises(ValueError, match="Undeclared reads 'depth'"):
        node("x", "x", "x", outputs=(NodePort("y", Wire.ANY),))(Undeclared)
    with pytest.raises(ValueError, match="Undeclared declares 'width'"):
        node("x", "x", "x", params=(NodeParam("depth", Kind.NUMBER, 1.0), NodeParam("width", Kind.NUMBER, 1.0)))(
            Undeclared
        )
    with pytest.raises(ValueError, match=r"depth of acestep\.Undeclared is 2"):
        node("x", "x", "x", params=(NodeParam("depth", Kind.NUMBER, 2.0, max=1),))(Undeclared)
    assert "acestep.Undeclared" not in NODE_TYPES


def test_a_definition_with_a_foreign_id_or_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="must begin with"):
        NodeDefinition("other.X", "x", "x", "x")
    with pytest.raises(ValueError, match="'y' twice"):
        NodeDefinition(
            "acestep.X", "x", "x", "x", inputs=(NodePort("y", Wire.ANY),), params=(NodeParam("y", Kind.ANY, None),)
        )


def test_a_node_is_registered_once():
    with pytest.raises(ValueError, match="registered already"):
        node("x", "x", "x", inputs=(NodePort("mask", Wire.MASK),))(NODE_TYPES["acestep.InvertMask"])


# Arguments


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("CurveRamp", {"begin": 0}, "CurveRamp takes no 'begin'; it takes start, end, length"),
        ("InvertMask", {}, "mask of acestep.InvertMask is missing; a MASK is expected"),
        ("InvertMask", {"mask": 1.5}, "mask of acestep.InvertMask leaves the range"),
        ("InvertMask", {"mask": torch.zeros(1, 4, 64)}, "mask of acestep.InvertMask has shape"),
        ("InvertMask", {"mask": "loud"}, "mask of acestep.InvertMask is not a curve"),
        ("CurveConstant", {"length": 0}, "length of acestep.CurveConstant is 0; 1 to 15000"),
        ("CurveConstant", {"length": 2.5}, "length of acestep.CurveConstant is 2.5; a whole number"),
        ("CurveConstant", {"length": True}, "length of acestep.CurveConstant is True"),
        ("CurveConstant", {"value": float("nan")}, "value of acestep.CurveConstant is nan; a finite"),
        ("CurveConstant", {"value": "1"}, "value of acestep.CurveConstant is '1'"),
        ("CurveWave", {"wave_type": "saw"}, "wave_type of acestep.CurveWave is 'saw'; one of sine, pulse, square"),
        ("DCWConfig", {"enabled": 1}, "enabled of acestep.DCWConfig is 1; True or False"),
        ("DCWConfig", {"wavelet": 2}, "wavelet of acestep.DCWConfig is 2; text"),
        ("DCWConfig", {"wavelet": "none"}, "wavelet is 'none'"),
        ("DCWConfig", {"scaler": [0.5, 2.0]}, "scaler of acestep.DCWConfig leaves the range 0 to 1"),
        ("DiffusionConfig", {"shift": 0}, "shift of acestep.DiffusionConfig is 0; 0.05 to 10"),
        ("DiffusionConfig", {"use_cache": True}, "DiffusionConfig takes no 'use_cache'"),
        ("LoRA", {"model": 3}, "model of acestep.LoRA is a int; a MODEL is expected"),
        ("LatentChannelScale", {"latent": latent_of(0), "channel_start": 5, "channel_end": 4}, "channel_end is 4"),
    ],
)
def test_a_bad_argument_is_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        call(name, **given)


def test_an_unknown_node_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no node 'acestep.Loop'; there are acestep.AudioInfo, "):
        node_type("acestep.Loop")


def test_what_is_not_given_has_the_default_of_the_definition():
    config = call("DiffusionConfig")
    assert (config.steps, config.shift, config.seed, config.denoise) == (8, 3.0, 42, 1.0)
    assert call("DCWConfig") == DcwSettings()


def test_a_curve_is_the_nodes_own(model):
    drawn = torch.full((FRAMES,), 0.5)
    handle = call("ChannelGuidance", model=model, scale=drawn)
    drawn[:] = 9.0
    assert bool((handle.gain(FRAMES) == 0.5).all())


# Connections


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (("LoadModel", "model", "LoRA", "model"), ""),
        (("CurveRamp", "curve", "Modulation", "guidance_curve"), ""),
        (("CurveRamp", "curve", "DCWConfig", "scaler"), ""),
        (("AudioInfo", "bpm", "EncodeText", "bpm"), ""),
        (("AudioInfo", "key", "EncodeText", "key"), ""),
        (("AudioInfo", "bpm", "CurveMath", "a"), ""),
        (("LoadModel", "model", "VAEDecodeAudio", "vae"), "is a MODEL; vae of acestep.VAEDecodeAudio takes a VAE"),
        (("CurveRamp", "curve", "InvertMask", "mask"), "is a CURVE"),
        (("LoadModel", "model", "LoRA", "lora"), "takes a TEXT"),
        (("LoadModel", "weights", "LoRA", "model"), "LoadModel has no output 'weights'; it has model, clip, vae"),
        (("LoadModel", "model", "LoRA", "handle"), "LoRA has no input 'handle'"),
        (("AudioInfo", "bpm", "StreamDenoise", "drain"), "StreamDenoise has no input 'drain'"),
        (("Load", "model", "LoRA", "model"), "no node 'acestep.Load'"),
    ],
)
def test_connections_are_checked_by_type(wire, reason):
    source, output, target, name = wire
    fits, said = validate_connection(f"acestep.{source}", output, f"acestep.{target}", name)
    assert fits == (reason == "")
    assert reason in said


def test_any_connects_to_all():
    assert all(may_connect(Wire.ANY, wire) and may_connect(wire, Wire.ANY) for wire in Wire)
    assert not may_connect(Wire.CURVE, Wire.NUMBER)


# Models


def test_a_model_is_loaded_once_and_again_for_other_parameters(tiny_folder):
    load = node_type("acestep.LoadModel")()
    first = load(config_path=str(tiny_folder), device="cpu")
    assert isinstance(first["clip"], ClipHandle)
    assert isinstance(first["vae"], VaeHandle)
    assert load(config_path=str(tiny_folder), device="cpu")["model"].session is first["model"].session
    assert load(config_path=str(tiny_folder))["model"].session is not first["model"].session
    load.close()
    load.close()


def test_a_lora_is_heard_on_its_wire_only(session, model, prompt, lora_file):
    def made(handle):
        return call(
            "Generate", model=handle, config=call("DiffusionConfig", steps=2), solver=call("OdeSolver"), positive=prompt,
            duration=1.0,
        ).frames  # fmt: skip

    bare = made(model)
    strong = call("LoRA", model=model, lora=str(lora_file), strength=1.0)
    assert model.loras == ()
    assert not torch.equal(made(strong), bare)
    assert torch.equal(made(model), bare)
    assert torch.equal(made(call("LoRA", model=strong, lora="choir", strength=0.0)), bare)
    assert call("LoRA", model=model) is model
    kept = made(strong)
    session.remove_loras()
    with pytest.raises(DemonError, match="E_NO_LORA"):
        made(strong)
    session.apply_lora(lora_file, 1.0)
    assert torch.equal(made(model), kept)
    session.remove_loras()


def test_channel_gain_makes_new_handles_and_later_entries_replace_earlier_ones(model):
    twice = call("ChannelGuidance", model=call("ChannelGuidance", model=model, scale=2.0), channel_end=7, scale=3.0)
    assert model.gain(4) is None
    gain = twice.gain(4)
    assert gain.shape == (1, 1, 64)
    assert bool((gain[..., :8] == 3).all())
    assert bool((gain[..., 8:] == 2).all())
    drawn = call("ChannelGuidance", model=twice, channel_start=63, scale=[0.0, 1.0, 2.0])
    assert torch.equal(drawn.gain(5)[0, :, 63], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    assert call("RemoveChannelGuidance", model=drawn).gain(4) is None
    with pytest.raises(ValueError, match="channel_end is 3"):
        call("ChannelGuidance", model=model, channel_start=4, channel_end=3)


# Conditions


def encoded(session, **words):
    told = {"tags": WORDS["tags"], "bpm": 100, "key": "A minor", "time_signature": "3", "duration": 30.0} | words
    return call("EncodeText", clip=ClipHandle(session), **told)


def test_words_and_timbre_become_what_the_session_makes_of_them(session, model, prompt):
    made = call("EncodeConditioning", model=model, text_embed=encoded(session))
    assert torch.equal(made.first.states, prompt.first.states)
    clip = latent_of(5, 40)
    voiced = call("EncodeConditioning", model=model, text_embed=encoded(session), timbre_ref=clip, timbre_strength=0.0)
    assert torch.equal(voiced.first.states, prompt.first.states)
    voiced = call("EncodeConditioning", model=model, text_embed=encoded(session), timbre_ref=clip)
    assert not torch.equal(voiced.first.states, prompt.first.states)


def test_words_that_do_not_fit_are_named_where_they_are_read(session, tiny_folder):
    with pytest.raises(DemonError, match="E_TASK"):
        encoded(session, task_type="lego")
    with pytest.raises(ValueError, match=r"key of acestep\.EncodeText is 'H major'"):
        encoded(session, key="H major")
    with Session(str(tiny_folder), device="cpu") as another, pytest.raises(ValueError, match="another model"):
        call("EncodeConditioning", model=ModelHandle(another), text_embed=encoded(session))


def test_conditions_are_blended_as_the_sessions_are(prompt, other):
    zero = call("ConditioningZeroOut", conditioning=prompt)
    assert zero.first.states.shape == prompt.first.states.shape
    assert not zero.first.states.any()
    average = call("ConditioningAverage", a=prompt, b=other, weight=0.3)
    assert torch.equal(average.first.states, prompt.averaged(other, 0.3).first.states)
    blend = call("ConditioningBlend", a=prompt, b=other, alpha=0.3)
    assert torch.equal(blend.first.states, prompt.blended(other, 0.3).first.states)
    assert call("ConditioningBlend", a=prompt, b=other, alpha=0.0).first is prompt.first


def test_combined_prompts_share_every_frame(prompt, other):
    both = call("ConditioningCombine", a=prompt, b=other, temporal_weight_b=[0.0, 0.25, 1.0], step_range_end_b=0.5)
    ours, theirs = both.entries
    assert torch.equal(ours.weight.flatten(), torch.tensor([1.0, 0.75, 0.0]))
    assert torch.equal(theirs.weight.flatten(), torch.tensor([0.0, 0.25, 1.0]))
    assert (ours.step_range, theirs.step_range) == (None, (0.0, 0.5))
    with pytest.raises(ValueError, match=r"step_range_end_b is 0.5; more than 0.5"):
        call("ConditioningCombine", a=prompt, b=other, step_range_start_b=0.5, step_range_end_b=0.5)


# Curves and masks


def test_curves_are_drawn():
    assert torch.equal(call("CurveConstant", value=2, length=3), torch.full((3,), 2.0))
    assert torch.equal(call("CurveRamp", length=5), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    wave = call("CurveWave", wave_type="pulse", frames_per_cycle=4, amplitude=2, offset=1, length=5)
    assert torch.equal(wave, torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]))


def test_curve_arithmetic_takes_a_number_for_a_missing_curve():
    ramp = call("CurveRamp", length=3)
    assert torch.equal(call("CurveMath", a=ramp, operation="multiply", scalar=4), 4 * ramp)
    assert torch.equal(call("CurveMath", a=ramp, b=1 - ramp, scalar=4), torch.ones(3))
    assert torch.equal(call("CurveMath", a=0.5, b=ramp, operation="lerp", lerp_t=1.0), ramp)


def test_masks_fit_their_latent():
    latent = latent_of(0, 4)
    assert torch.equal(call("TemporalMask", latent=latent), torch.full((4,), 0.5))
    mask = call("TemporalMask", latent=latent, curve=[-1.0, 2.0])
    assert torch.equal(mask, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert torch.equal(call("InvertMask", mask=mask), 1 - mask)
    masked = call("SetLatentNoiseMask", latent=latent, mask=mask)
    assert isinstance(masked, MaskedLatent)
    assert torch.equal(masked.noise_mask.mask, mask)
    assert masked.noise_mask.original.frames is latent.frames


# Settings


def test_solvers_carry_the_curve_of_their_method():
    assert call("OdeSolver").fields() == {}
    assert call("OdeSolver", ode_noise_curve=0.5).fields() == {"ode_noise_curve": torch.tensor([0.5])}
    assert list(call("SdeSolver", sde_denoise_curve=0.5).fields()) == ["sde_denoise_curve"]


def test_wavelet_settings_take_curves_and_the_faders():
    settings = call("DCWConfig", mode="low", scaler=[0.0, 0.5], mult_blend=0.25, mag_phase=0.5, soft_thresh=0.1)
    assert settings == DcwSettings(mode="low", scaler=(0.0, 0.5), mult_blend=0.25, mag_phase=0.5, soft_thresh=0.1)


def test_modulation_takes_numbers_and_curves():
    target = latent_of(1)
    made = call("Modulation", velocity_scale=0.9, guidance_curve=[1, 2], x0_target=target, x0_target_strength=[0, 1])
    assert made.x0_target is target
    assert torch.equal(made.guidance_curve, torch.tensor([1.0, 2.0]))
    assert call("Modulation").guidance_curve is None
    assert call("Modulation").velocity_scale == 1.0


# Latents and audio


def test_latents_are_made_blended_and_scaled(session, model):
    silence = call("EmptyLatent", model=model, duration=2.0)
    assert torch.equal(silence.frames, session.empty_latent(2.0).frames)
    a, b = latent_of(1), latent_of(2)
    assert torch.equal(call("SemanticExtract", model=model, latent=a).frames, session.extract_hints(a).frames)
    assert torch.equal(call("LatentBlend", a=a, b=b, alpha=0.3).frames, a.blended(b, 0.3).frames)
    drawn = call("LatentBlend", a=a, b=b, alpha=0.3, blend_curve=[0.0, 1.0]).frames
    assert torch.equal(drawn[0], a.frames[0])
    assert torch.equal(drawn[-1], b.frames[-1])
    assert call("LatentChannelScale", latent=a) is a
    scaled = call("LatentChannelScale", latent=a, channel_start=8, channel_end=15, scale=[0.0, 2.0]).frames
    assert torch.equal(scaled[:, :8], a.frames[:, :8])
    assert torch.equal(scaled[-1, 8:16], 2 * a.frames[-1, 8:16])
    assert not scaled[0, 8:16].any()


def test_a_scaled_latent_keeps_its_mask():
    masked = call("SetLatentNoiseMask", latent=latent_of(1), mask=0.5)
    assert call("LatentChannelScale", latent=masked, scale=2.0).noise_mask is masked.noise_mask


@pytest.fixture(scope="module")
def audio(session):
    return Audio.of(0.1 * np.random.default_rng(0).standard_normal((2, 48000)).astype(np.float32), session.sample_rate)


def test_audio_is_encoded_to_its_mean_or_to_a_repeatable_sample(session, audio):
    vae = VaeHandle(session)
    mean = call("VAEEncodeAudio", vae=vae, audio=audio, seed=3).frames
    assert torch.equal(mean, session.encode_audio(audio).frames)
    sample = call("VAEEncodeAudio", vae=vae, audio=audio, mode="sample", seed=3).frames
    assert torch.equal(sample, session.encode_audio(audio, seed=3).frames)
    assert not torch.equal(sample, mean)


def test_a_window_is_that_part_of_the_whole(session):
    vae, latent = VaeHandle(session), latent_of(4, 60)
    whole = call("VAEDecodeAudio", vae=vae, latent=latent)
    assert torch.equal(call("StreamVAEDecode", vae=vae, latent=latent, vae_window=0.0).waveform, whole.waveform)
    part = call("StreamVAEDecode", vae=vae, latent=latent, t_start=1.0)
    assert (part.start_sample, part.waveform.shape[1]) == (48000, 9 * 1920)
    torch.testing.assert_close(part.waveform, whole.waveform[:, 48000 : 48000 + 9 * 1920], atol=1e-5, rtol=0)
    loop = call("StreamVAEDecode", vae=vae, latent=latent, t_start=2.3, cyclic=True)
    assert loop.waveform.shape[1] == 9 * 1920


def test_a_window_that_follows_the_playhead_is_decoded_when_something_moved(session):
    decode = node_type("acestep.StreamVAEDecode")()

    def heard(latent, playhead):
        given = {"follow_playhead": True, "playhead_seconds": playhead, "vae_window": 0.5, "prefetch_seconds": 0.25}
        return decode(vae=VaeHandle(session), latent=latent, **given)["audio"]

    latent = latent_of(4, 60)
    assert heard(latent, 1.0).start_sample == 48000
    assert heard(latent, 1.2) is None
    assert heard(latent_of(5, 60), 1.2) is not None
    assert heard(latent_of(5, 60), 1.5) is not None
    assert heard(latent_of(5, 60), 0.0) is not None
    decode.close()
    assert heard(latent_of(5, 60), 0.0) is not None


# Audio info


@pytest.mark.parametrize("bpm", [60, 70, 83, 100, 120, 128, 140, 160])
def test_the_tempo_of_clicks_is_found(bpm):
    assert estimate_tempo(clicks(bpm)) == pytest.approx(bpm, rel=0.01)


def test_a_fast_tempo_is_found_or_heard_at_half():
    assert 2 * estimate_tempo(clicks(180)) == pytest.approx(180, rel=0.01)


def test_without_a_beat_the_tempo_is_120():
    assert estimate_tempo(np.zeros(RATE * 4)) == 120
    assert estimate_tempo(clicks(90, seconds=1)) == 120


@pytest.mark.parametrize("tonic", range(12))
def test_the_key_of_a_scale_is_found(tonic):
    assert estimate_key(scale(tonic, MAJOR)) == KEYS[tonic]
    assert estimate_key(scale(tonic, MINOR)) == KEYS[12 + tonic]


@pytest.mark.parametrize(("tonic", "third", "key"), [(0, 4, "C major"), (9, 3, "A minor"), (3, 4, "Eb major")])
def test_the_key_of_a_triad_is_found(tonic, third, key):
    notes = 440 * 2 ** ((tonic - 9 + np.array([0, third, 7])) / 12)
    assert estimate_key(sum(sine(note, 2) for note in notes)) == key


def test_silence_has_some_key_of_the_list():
    assert estimate_key(np.zeros(100)) in KEYS


def test_three_instruments_that_play_the_same_notes_have_one_tempo(fixtures):
    found = {
        round(estimate_tempo(mono(Audio.of(samples.T.copy(), rate))))
        for samples, rate in (
            soundfile.read(fixtures / f"pair_{name}_8s.flac", dtype="float32")
            for name in ("piano", "strings", "electric_guitar")
        )
    }
    assert len(found) == 1


def test_audio_info_has_outputs_that_describe_a_prompt(session):
    info = call("AudioInfo", audio=Audio.of(clicks(100).astype(np.float32), RATE))
    assert info["bpm"] in (99, 100, 101)
    assert info["duration"] == 12.0
    made = call("EncodeText", clip=ClipHandle(session), **info)
    assert (made.words["bpm"], made.words["key"]) == (info["bpm"], info["key"])
    assert isinstance(session.encode_text(**made.words), Conditioning)
