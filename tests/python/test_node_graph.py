# SPDX-License-Identifier: Apache-2.0
"""Graphs of nodes: wiring, order, and that a whole graph makes what the Session makes, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec import structs

from engine_server.nodes import Graph, node_type
from engine_server.nodes.types import ModelHandle
from engine_server.session import Session
from engine_server.types import Audio, Latent

FRAMES = 20


@pytest.fixture(scope="module")
def session(tiny_folder):
    with Session(str(tiny_folder), device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def prompt(session):
    return session.encode_text(tags="string ensemble")


@pytest.fixture(scope="module")
def source(session):
    noise = 0.1 * np.random.default_rng(1).standard_normal((2, FRAMES * 1920)).astype(np.float32)
    return session.prepare_source(Audio.of(noise, session.sample_rate))


@pytest.fixture
def graph():
    with Graph() as made:
        yield made


@pytest.fixture
def stream():
    made = node_type("acestep.StreamDenoise")()
    yield made
    made.close()


def ode(**given):
    return node_type("acestep.OdeSolver")()(**given)["solver"]


def generate(session, prompt, *, config=None, solver=None, **given):
    config = node_type("acestep.DiffusionConfig")()(**({"steps": 3} | (config or {})))["config"]
    made = node_type("acestep.Generate")()(
        model=ModelHandle(session), config=config, solver=solver or ode(), positive=prompt, **given
    )
    return made["latent"].frames


def test_a_whole_graph_makes_what_the_session_makes(graph, tiny_folder, session):
    music = Audio.of(0.1 * np.random.default_rng(2).standard_normal(48000).astype(np.float32), 44100)
    graph.add("acestep.Generate", "generate")
    graph.add("acestep.LoadModel", "load", config_path=str(tiny_folder), device="cpu")
    graph.add("acestep.VAEEncodeAudio", "source", audio=music)
    graph.add("acestep.SemanticExtract", "hints")
    graph.add("acestep.EncodeText", "words", tags="choir", bpm=90, duration=30.0, key="D minor", time_signature="4")
    graph.add("acestep.EncodeConditioning", "prompt")
    graph.add("acestep.DiffusionConfig", "config", steps=3, seed=11, denoise=0.7, shift=2.0)
    graph.add("acestep.OdeSolver", "solver", ode_noise_curve=0.1)
    graph.add("acestep.CurveRamp", "guidance", start=1.0, end=3.0, length=2)
    graph.add("acestep.Modulation", "modulation", velocity_scale=0.9)
    graph.add("acestep.DCWConfig", "dcw", mode="low", scaler=0.1)
    graph.add("acestep.VAEDecodeAudio", "decode")
    for wire in (
        ("load", "vae", "source", "vae"),
        ("load", "model", "hints", "model"),
        ("source", "latent", "hints", "latent"),
        ("load", "clip", "words", "clip"),
        ("load", "model", "prompt", "model"),
        ("words", "text_embed", "prompt", "text_embed"),
        ("guidance", "curve", "modulation", "guidance_curve"),
        ("load", "model", "generate", "model"),
        ("config", "config", "generate", "config"),
        ("solver", "solver", "generate", "solver"),
        ("prompt", "conditioning", "generate", "positive"),
        ("source", "latent", "generate", "source_latent"),
        ("hints", "latent", "generate", "context_latent"),
        ("modulation", "modulation", "generate", "modulation"),
        ("dcw", "dcw", "generate", "dcw"),
        ("load", "vae", "decode", "vae"),
        ("generate", "latent", "decode", "latent"),
    ):
        graph.connect(*wire)
    made = graph.run()

    piece = session.prepare_source(music)
    words = session.encode_text(tags="choir", bpm=90, duration=30.0, key="D minor", time_signature=4)
    expected = session.generate(
        conditioning=words, source=piece, seed=11, steps=3, shift=2.0, denoise=0.7, ode_noise_curve=0.1,
        guidance_curve=[1.0, 3.0], velocity_scale=0.9, dcw=made["dcw"]["dcw"],
    )  # fmt: skip
    assert torch.equal(made["generate"]["latent"].frames, expected.frames)
    assert torch.equal(made["decode"]["audio"].waveform, session.decode(expected).waveform)
    again = graph.run()
    assert again["load"]["model"].session is made["load"]["model"].session
    assert torch.equal(again["generate"]["latent"].frames, expected.frames)


def test_without_a_source_the_duration_counts(session, prompt):
    expected = session.generate(conditioning=prompt, duration=1.2, seed=42, steps=3, shift=3.0)
    assert torch.equal(generate(session, prompt, duration=1.2), expected.frames)
    hints = session.empty_latent(0.6)
    expected = session.generate(conditioning=prompt, context_latent=hints, seed=42, steps=3, shift=3.0)
    assert torch.equal(generate(session, prompt, context_latent=hints), expected.frames)


def test_a_source_alone_is_shown_silence(session, prompt, source):
    expected = session.generate(
        conditioning=prompt, source_latent=source.latent, seed=42, steps=3, shift=3.0, denoise=0.5
    )
    made = generate(session, prompt, source_latent=source.latent, config={"denoise": 0.5})
    assert torch.equal(made, expected.frames)


def test_frames_that_a_mask_keeps_come_back_exactly(session, prompt, source):
    mask = torch.arange(FRAMES) >= 10
    masked = node_type("acestep.SetLatentNoiseMask")()(latent=source.latent, mask=mask.float())["latent"]
    made = generate(session, prompt, source_latent=masked)
    assert torch.equal(made[:10], source.latent.frames[:10])
    assert not torch.equal(made[10:], source.latent.frames[10:])


def test_channel_gain_and_a_negative_are_heard(session, prompt, source):
    zero = node_type("acestep.ConditioningZeroOut")()(conditioning=prompt)["conditioning"]
    guided = node_type("acestep.Modulation")()(guidance_curve=3.0)["modulation"]
    gain = torch.ones(1, 1, 64)
    gain[..., :8] = 0.5
    expected = session.generate(
        conditioning=prompt, source=source, seed=42, steps=3, shift=3.0, guidance_curve=3.0, negative=zero,
        channel_gain=gain, cfg_rescale=0.5,
    )  # fmt: skip
    model = node_type("acestep.ChannelGuidance")()(model=ModelHandle(session), channel_end=7, scale=0.5)["model"]
    config = node_type("acestep.DiffusionConfig")()(steps=3)["config"]
    made = node_type("acestep.Generate")()(
        model=model, config=config, solver=ode(), positive=prompt, negative=zero, modulation=guided, cfg_rescale=0.5,
        source_latent=source.latent, context_latent=source.context_latent,
    )  # fmt: skip
    assert torch.equal(made["latent"].frames, expected.frames)


def test_the_sde_solver_with_its_curve_is_the_sessions(session, prompt, source):
    solver = node_type("acestep.SdeSolver")()(sde_denoise_curve=[0.2, 1.0])["solver"]
    parts = {"source_latent": source.latent, "context_latent": source.context_latent}
    expected = session.generate(
        conditioning=prompt, source=source, seed=42, steps=3, shift=3.0, sde_denoise_curve=[0.2, 1.0]
    )
    assert torch.equal(generate(session, prompt, solver=solver, **parts), expected.frames)


# The stream


def streamed(stream, session, prompt, source, **given):
    parts = {"source_latent": source.latent, "context_latent": source.context_latent} if source else {}
    basics = {"model": ModelHandle(session), "solver": ode(), "positive": prompt, "steps": 3, "pipeline_depth": 3}
    return stream(**(basics | parts | given))["latent"]


def test_a_stream_gives_a_generation_per_call_once_it_is_warm(stream, session, prompt, source):
    made = [streamed(stream, session, prompt, source, seed=seed) for seed in range(6)]
    assert [latent is not None for latent in made] == [False, False, True, True, True, True]
    for seed, latent in enumerate(made[2:]):
        expected = session.generate(conditioning=prompt, source=source, seed=seed, steps=3, shift=3.0, denoise=0.75)
        assert torch.equal(latent.frames, expected.frames)


def test_a_drained_call_gives_its_own_result_whatever_else_flies(stream, session, prompt, source):
    for seed in range(3):
        streamed(stream, session, prompt, source, seed=seed)
    own = streamed(stream, session, prompt, source, seed=99, drain=True)
    expected = session.generate(conditioning=prompt, source=source, seed=99, steps=3, shift=3.0, denoise=0.75)
    assert torch.equal(own.frames, expected.frames)


def test_a_drained_call_without_denoising_gives_the_source(stream, session, prompt, source):
    made = streamed(stream, session, prompt, source, denoise=0.0, drain=True)
    assert torch.equal(made.frames, source.latent.frames)


def test_steps_depth_and_length_change_without_a_new_stream(stream, session, prompt, source):
    streamed(stream, session, prompt, source)
    handle = stream.stream
    made = [streamed(stream, session, prompt, source, steps=5, seed=7) for _ in range(7)]
    first, *_, last = [latent for latent in made if latent is not None]
    for latent, given in ((first, {"steps": 3, "seed": 42}), (last, {"steps": 5, "seed": 7})):
        expected = session.generate(conditioning=prompt, source=source, shift=3.0, denoise=0.75, **given)
        assert torch.equal(latent.frames, expected.frames)
    streamed(stream, session, prompt, source, pipeline_depth=2)
    assert handle.stats().depth == 2
    half = type(source)(Latent(source.latent.frames[:10]), Latent(source.context_latent.frames[:10]), 0)
    assert len(streamed(stream, session, prompt, half, pipeline_depth=2, drain=True)) == 10
    assert stream.stream is handle


def test_another_kind_of_material_begins_a_new_stream(stream, session, prompt, source):
    streamed(stream, session, prompt, source)
    handle = stream.stream
    made = streamed(stream, session, prompt, None, denoise=1.0, duration=1.2, drain=True)
    assert stream.stream is not handle
    expected = session.generate(conditioning=prompt, duration=1.2, seed=42, steps=3, shift=3.0)
    assert torch.equal(made.frames, expected.frames)
    with pytest.raises(RuntimeError, match="closed"):
        handle.tick()


def test_the_streams_own_correction_counts_where_none_is_wired(stream, session, prompt, source):
    off = streamed(stream, session, prompt, source, drain=True, dcw_enabled=False)
    wired = node_type("acestep.DCWConfig")()(enabled=False)["dcw"]
    assert torch.equal(streamed(stream, session, prompt, source, drain=True, dcw=wired).frames, off.frames)
    usual = session.generate(conditioning=prompt, source=source, seed=42, steps=3, shift=3.0, denoise=0.75)
    assert not torch.equal(off.frames, usual.frames)
    assert torch.equal(streamed(stream, session, prompt, source, drain=True).frames, usual.frames)


def test_the_streams_own_correction_is_off_where_it_does_not_suit_the_checkpoint(
    stream, session, prompt, source, monkeypatch
):
    on = streamed(stream, session, prompt, source, drain=True)
    off = streamed(stream, session, prompt, source, drain=True, dcw_enabled=False)
    settings = structs.replace(session.checkpoint.settings, dcw=False)
    monkeypatch.setattr(session, "checkpoint", replace(session.checkpoint, settings=settings))
    assert torch.equal(streamed(stream, session, prompt, source, drain=True, dcw_scaler=0.3).frames, off.frames)
    assert torch.equal(streamed(stream, session, prompt, source, drain=True, dcw_enabled=True).frames, on.frames)
    wired = node_type("acestep.DCWConfig")()()["dcw"]
    assert torch.equal(streamed(stream, session, prompt, source, drain=True, dcw=wired).frames, on.frames)


def test_channel_gain_of_a_stream_follows_its_wire(stream, session, prompt, source):
    loud = ModelHandle(session).with_gain(0, 63, [0.5, 2.0])
    scaled = streamed(stream, session, prompt, source, drain=True, model=loud)
    plain = streamed(stream, session, prompt, source, drain=True)
    usual = session.generate(conditioning=prompt, source=source, seed=42, steps=3, shift=3.0, denoise=0.75)
    assert torch.equal(plain.frames, usual.frames)
    assert not torch.equal(scaled.frames, usual.frames)


# Wiring


def test_wires_that_do_not_fit_are_refused(graph):
    graph.add("acestep.CurveRamp", "ramp")
    graph.add("acestep.CurveMath", "sum", b=2.0)
    graph.add("acestep.InvertMask", "mask")
    graph.connect("ramp", "curve", "sum", "a")
    for wire, message in (
        (("ramp", "curve", "sum", "a"), "a of 'sum' has a value already"),
        (("ramp", "curve", "sum", "b"), "b of 'sum' has a value already"),
        (("ramp", "curve", "mask", "mask"), "is a CURVE"),
        (("lamp", "curve", "sum", "a"), "no node 'lamp'; there are ramp, sum, mask"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.connect(*wire)
    with pytest.raises(ValueError, match=r"a of acestep\.CurveMath is fed by a wire"):
        graph.set("sum", a=1.0)
    with pytest.raises(ValueError, match="takes no 'c'"):
        graph.set("sum", c=1.0)
    with pytest.raises(ValueError, match="takes no 'c'"):
        graph.add("acestep.CurveMath", "more", c=1.0)
    with pytest.raises(ValueError, match="a node 'sum' already"):
        graph.add("acestep.CurveMath", "sum")


def test_a_circle_is_refused_and_leaves_the_graph_as_it_was(graph):
    graph.add("acestep.CurveMath", "one", b=1.0)
    graph.add("acestep.CurveMath", "two")
    graph.connect("one", "curve", "two", "a")
    with pytest.raises(ValueError, match="feed themselves"):
        graph.connect("two", "curve", "one", "a")
    graph.set("one", a=[1.0, 2.0])
    assert torch.equal(graph.run()["two"]["curve"], torch.tensor([3.0, 4.0]))


def test_a_missing_input_is_named_before_anything_is_executed(graph, tmp_path):
    graph.add("acestep.LoadModel", "load", config_path=str(tmp_path / "nothing"))
    graph.add("acestep.InvertMask", "mask")
    with pytest.raises(ValueError, match="mask of 'mask' is missing; a MASK is expected"):
        graph.run()


def test_changed_values_are_heard_in_the_next_run_and_none_is_the_default(graph):
    graph.add("acestep.CurveConstant", "two", value=2.0, length=1)
    graph.add("acestep.CurveMath", "sum")
    graph.connect("two", "curve", "sum", "a")
    assert float(graph.run()["sum"]["curve"]) == 3.0
    graph.set("sum", scalar=5.0)
    assert float(graph.run()["sum"]["curve"]) == 7.0
    graph.set("sum", scalar=None)
    assert float(graph.run()["sum"]["curve"]) == 3.0


def test_nothing_is_decoded_before_a_stream_has_finished_something(graph, tiny_folder):
    graph.add("acestep.LoadModel", "load", config_path=str(tiny_folder), device="cpu")
    graph.add("acestep.EncodeText", "words")
    graph.add("acestep.EncodeConditioning", "prompt")
    graph.add("acestep.OdeSolver", "solver")
    graph.add("acestep.StreamDenoise", "stream", steps=2, pipeline_depth=2, denoise=1.0, duration=1.0)
    graph.add("acestep.StreamVAEDecode", "decode", vae_window=0.0)
    for wire in (
        ("load", "clip", "words", "clip"),
        ("load", "model", "prompt", "model"),
        ("words", "text_embed", "prompt", "text_embed"),
        ("load", "model", "stream", "model"),
        ("solver", "solver", "stream", "solver"),
        ("prompt", "conditioning", "stream", "positive"),
        ("load", "vae", "decode", "vae"),
        ("stream", "latent", "decode", "latent"),
    ):
        graph.connect(*wire)
    assert graph.run()["decode"]["audio"] is None
    assert graph.run()["decode"]["audio"].duration_s == 1.0
