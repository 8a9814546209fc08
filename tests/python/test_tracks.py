# SPDX-License-Identifier: Apache-2.0
"""From input to windows of audio: planning, stitching, resuming, and lanes that are heard where they are drawn."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import weakref

import msgspec
import numpy as np
import pytest
import soxr
import torch
from codec_stand_in import PositionedCodec
from hypothesis import assume, given
from hypothesis import strategies as st
from track_rig import stream

from engine_server.model.checkpoint_files import Geometry
from engine_server.model.windows import decode_full, encode_full
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.geometry import WindowGeometry
from engine_server.tracks.render import render
from engine_server.tracks.resample import FILTER_FRAMES, resample_span
from engine_server.tracks.track import Track
from shared_protocol.errors import DemonError
from shared_protocol.messages import make_config
from shared_protocol.timebase import samples_per_frame

CONFIG = make_config(prompt="strings", seed=7, steps=0, solver="ode")
RATE, FRAME = 48_000, 1920
FRAMES = 150


def music(frames=FRAMES, rate=RATE, seed=0):
    """Noise bursts and tones, different everywhere."""
    samples = frames * samples_per_frame(rate)
    t = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal((2, samples)) * (np.sin(2 * np.pi * t) > 0.5)
    return (0.2 * np.sin(2 * np.pi * 220 * t + np.sin(t)) + 0.05 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine(tiny)


@pytest.fixture(scope="module")
def plain(engine):
    """A bounce with denoise 0.6 throughout."""
    return render(engine, music(), RATE, build_table({"denoise": 0.6}, FRAMES), CONFIG)


def bounce(engine, *, lanes=None, config=CONFIG, source=None, rate=RATE):
    source = music(rate=rate) if source is None else source
    frames = -(-source.shape[1] // samples_per_frame(rate))
    return render(engine, source, rate, build_table({"denoise": 0.6} | (lanes or {}), frames), config)


geometries = st.builds(
    dict,
    hop=st.integers(1, 40).map(lambda n: 2 * n),
    past=st.integers(0, 10),
    lookahead=st.integers(1, 40).map(lambda n: 2 * n),
    crossfade=st.integers(0, 20),
    encoder_margin=st.integers(0, 10),
    decoder_margin=st.integers(0, 20),
    resampler_margin=st.integers(0, 2),
)


def build_geometry(sizes):
    chunk = np.gcd(sizes["hop"], sizes["lookahead"])
    try:
        return WindowGeometry(**(sizes | {"past": int(sizes["past"] * chunk)}))
    except DemonError:
        assume(False)


@given(geometries, st.integers(-500, 500))
def test_audio_spans_tile_the_timeline_and_their_input_is_there_in_time(sizes, k):
    g = build_geometry(sizes)
    assert g.audio_span(k).stop == g.audio_span(k + 1).first
    assert g.hop_finishing_audio(g.audio_span(k).first) == g.hop_finishing_audio(g.audio_span(k).stop - 1) == k
    last_input = g.chunk_input(g.chunk_of(g.window_span(k).stop - 1)).stop
    assert last_input - g.audio_span(k).first <= g.minimum_latency
    first_hop = g.first_hop_for_audio(k)
    assert g.hop_span(first_hop).first <= g.latent_span(k).first
    assert g.input_needed_from(first_hop) >= g.audio_span(k).stop - 1 - g.retain
    assert g.window_span(k).first % g.chunk == g.window_span(k).stop % g.chunk == 0


@pytest.mark.parametrize("wrong", [{"hop": 7}, {"lookahead": 10}, {"past": 33}, {"crossfade": 60}, {"hop": 0}])
def test_geometries_that_contradict_themselves_are_refused(wrong):
    good = {"hop": 20, "past": 100, "lookahead": 20, "crossfade": 6, "encoder_margin": 4, "decoder_margin": 7}
    WindowGeometry(**good)
    with pytest.raises(DemonError, match="E_FIELD"):
        WindowGeometry(**(good | wrong))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 88200, 96000, 192000])
def test_resampling_a_span_equals_resampling_the_whole(rate):
    audio = music(30, rate)
    size, cut = samples_per_frame(rate), FILTER_FRAMES
    whole = soxr.resample(audio.T, rate, RATE, quality="VHQ").T
    part = resample_span(audio[:, (10 - cut) * size : (20 + cut) * size], rate, RATE)
    np.testing.assert_allclose(part, whole[:, 10 * FRAME : 20 * FRAME], atol=1e-7)


def test_two_bounces_have_the_same_bits(engine, plain, tiny):
    assert np.array_equal(plain, bounce(engine))
    assert np.array_equal(plain, bounce(Engine(tiny, depth=8)))
    assert not np.allclose(plain, bounce(engine, config=make_config("strings", 8, 0, "ode")), atol=1e-3)


def test_the_prompt_is_heard(engine, plain):
    assert not np.array_equal(plain, bounce(engine, config=make_config("piano", 7, 0, "ode")))


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_a_source_held_throughout_comes_back_as_the_codec_alone_gives_it(engine, tiny, solver):
    """Windowed coding equals full coding, and every sample is where it was."""
    source = np.zeros((2, FRAMES * FRAME), dtype=np.float32)
    source[:, 5000::17_111] = 0.9
    held = bounce(engine, source=source, lanes={"source_blend": 0.0}, config=make_config("", 1, 0, solver))
    around = np.pad(source, ((0, 0), (40 * FRAME, 40 * FRAME)))
    with torch.no_grad():
        latents = tiny.codec.encode(torch.from_numpy(around)[None])
        latents[:, :40] = tiny.silence
        full = tiny.codec.decode(latents, position=-40)[0].numpy()[:, 40 * FRAME : -40 * FRAME]
    np.testing.assert_allclose(held, full, atol=1e-6)
    assert np.array_equal(held, bounce(engine, source=source, lanes={"denoise": 0.0}))


@pytest.fixture(scope="module")
def placed(tiny):
    """The tiny checkpoint, with a decoder that depends on the absolute frame."""
    return dataclasses.replace(tiny, codec=PositionedCodec())


def test_a_decoder_that_knows_positions_hears_the_absolute_frames_of_the_timeline(placed):
    held = bounce(Engine(placed), lanes={"source_blend": 0.0})
    codec, reach = placed.codec, placed.codec.decoder_margin
    latents = torch.cat(
        [
            placed.silence.expand(reach, -1),
            encode_full(codec, torch.from_numpy(music())),
            torch.zeros(reach, codec.latent_channels),
        ]
    )
    full = decode_full(codec, latents, position=-reach).numpy()
    np.testing.assert_allclose(held, full[:, reach * FRAME : -reach * FRAME], atol=1e-6)


def test_an_epoch_gives_a_decoder_the_same_positions_wherever_it_resumes(placed):
    engine, deliver_from = Engine(placed), 77
    whole = bounce(engine)
    track = new_track(placed)
    feed_from = deliver_from - track.geometry.retain
    track.begin(1, start=0, feed_from=feed_from, deliver_from=deliver_from, offline=True)
    audio = drive(engine, track, feeder(track, music(), first=feed_from), until=FRAMES - deliver_from)
    assert np.array_equal(audio[:, : (FRAMES - deliver_from) * FRAME], whole[:, deliver_from * FRAME :])


def test_a_step_is_heard_from_its_frame_on_and_not_before(engine, tiny):
    step_frame = 77
    blend = np.where(np.arange(FRAMES) < step_frame, 1.0, 0.0).astype(np.float32)
    free, stepped = bounce(engine, lanes={"source_blend": 1.0}), bounce(engine, lanes={"source_blend": blend})
    held = bounce(engine, lanes={"source_blend": 0.0})
    geometry, reach = WindowGeometryOf(tiny), tiny.codec.decoder_margin
    untouched = max(k for k in range(20) if geometry.window_span(k).stop <= step_frame)
    same = geometry.audio_span(untouched).stop * FRAME
    assert np.array_equal(free[:, :same], stepped[:, :same])
    after = (step_frame + reach) * FRAME
    assert np.array_equal(held[:, after:], stepped[:, after:])
    at = slice(step_frame * FRAME, (step_frame + 1) * FRAME)
    before = slice((step_frame - 1) * FRAME, step_frame * FRAME)
    error_at, error_before = (np.abs(stepped[:, s] - held[:, s]).mean() for s in (at, before))
    assert error_at < 0.7 * error_before


def WindowGeometryOf(checkpoint):  # noqa: N802
    from engine_server.tracks.track import track_geometry

    return track_geometry(checkpoint, RATE)


def drive(engine, track, feed, *, until):
    """Feed a track and step the engine until so many frames of audio have come; `[2, frames]`."""
    engine.tracks[track.id] = track
    windows, got = [], 0
    while got < until:
        progressed = feed()
        result = engine.step()
        assert not result.failures
        windows += [w for w in result.windows if w.track == track.id]
        got = sum(w.count for w in windows)
        assert progressed or engine.has_work()
    engine.remove(track.id)
    return np.concatenate([w.audio for w in windows], axis=1)


def new_track(tiny, name="t", rate=RATE, latency=150, config=CONFIG):
    return Track(name, tiny, rate=rate, latency=latency, lanes=["denoise", "an unknown lane"], config=config)


def feeder(track, source, *, first=0, chunk=7, epoch=1, value=0.6):
    """Feeds so many frames a call, silence after the source's end."""
    position = first

    def feed():
        nonlocal position
        audio = np.zeros((2, chunk * FRAME), dtype=np.float32)
        part = source[:, max(0, position) * FRAME : (position + chunk) * FRAME]
        audio[:, : part.shape[1]] = part
        lanes = np.full((chunk, 2), value, dtype=np.float32)
        lanes[:, 1] = 1e9
        track.feed(epoch, position, audio, lanes)
        position += chunk
        return True

    return feed


def test_an_epoch_that_was_never_ended_does_not_block_the_next(engine, tiny, plain):
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    feeder(track, music(), chunk=3)()
    track.begin(2, start=0, feed_from=0, deliver_from=0, offline=True)
    audio = drive(engine, track, feeder(track, music(), epoch=2), until=FRAMES)
    assert np.array_equal(audio[:, : plain.shape[1]], plain)


def test_a_live_client_that_was_left_behind_gets_what_it_still_wants(engine, tiny, plain):
    """Hops that lie before are not computed, and what comes has the bits of a full run."""
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
    feed = feeder(track, music(), chunk=64)
    feed()
    feed()
    track.skip(1, 53)
    assert track.next_hop().hop == track.geometry.first_hop_for_audio(track.geometry.hop_finishing_audio(53))
    audio = drive(engine, track, feed, until=FRAMES - 53)
    assert np.array_equal(audio[:, : (FRAMES - 53) * FRAME], plain[:, 53 * FRAME :])
    bounce_track = new_track(tiny)
    bounce_track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    feeder(bounce_track, music(), chunk=64)()
    bounce_track.skip(1, 53)
    assert bounce_track.next_hop().hop == 0


def test_what_a_track_holds_is_bounded(tiny):
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=2**50, offline=False)
    feed = feeder(track, music(), chunk=64)
    for _ in range(60):
        feed()
    assert track._epochs[1].timeline.held <= 64
    track.begin(2, start=0, feed_from=0, deliver_from=0, offline=False)
    feed = feeder(track, music(), chunk=64, epoch=2)
    with pytest.raises(DemonError, match="E_LIMIT"):
        all(feed() for _ in range(60))


def test_repeats_of_what_is_over_are_harmless(engine, tiny):
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    feed = feeder(track, music(), chunk=30)
    feed()
    track.finish(1, 30)
    feeder(track, music(), chunk=30)()
    engine.tracks[track.id] = track
    while engine.has_work():
        engine.step()
    engine.remove(track.id)
    assert not track.has_epoch(1)
    feeder(track, music(), chunk=30)()
    track.finish(1, 30)
    assert track.book.positions[1] == 30


@pytest.mark.parametrize("end", [1, 19, 20, 41])
def test_epochs_end_anywhere_with_the_shortest_past(tiny, end):
    sizes = Geometry(hop=20, past=0, lookahead=20, crossfade=2)
    checkpoint = dataclasses.replace(tiny, settings=msgspec.structs.replace(tiny.settings, geometry=sizes))
    engine, track = Engine(checkpoint), new_track(checkpoint)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    feeder(track, music(), chunk=end)()
    track.finish(1, end)
    engine.tracks[track.id] = track
    windows = []
    while engine.has_work():
        result = engine.step()
        assert not result.failures
        windows += result.windows
    assert sum(w.count for w in windows) >= end


def test_output_that_is_not_finite_is_a_failure_and_not_a_window(tiny):
    engine, track = Engine(tiny), new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    engine.tracks[track.id] = track
    feed = feeder(track, np.full_like(music(), np.nan))
    failures = []
    for _ in range(60):
        if not track.has_epoch(1):
            break
        feed()
        result = engine.step()
        failures += result.failures
        assert all(np.isfinite(w.audio).all() for w in result.windows)
    assert failures
    assert "NaN or infinity" in str(failures[0][1])


def test_a_ring_that_fails_costs_its_own_tracks_only(tiny, plain):
    engine = Engine(tiny)
    long_prompt, good = new_track(tiny, "long", config=make_config("a " * 400, 1, 0, "ode")), new_track(tiny, "good")
    for track in (long_prompt, good):
        track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
        engine.tracks[track.id] = track
        feeder(track, music(), chunk=64)()
    engine.step()
    broken = next(ring for key, ring in engine._rings.items() if key[1] > tiny.settings.condition_tokens)
    broken.tick = lambda: (_ for _ in ()).throw(RuntimeError("no memory"))
    feed, failures, windows = feeder(good, music(), first=64, chunk=64), [], []
    while sum(w.count for w in windows) < FRAMES:
        feed()
        result = engine.step()
        failures += result.failures
        windows += result.windows
    assert {hop.track for hop, _ in failures} == {"long"}
    audio = np.concatenate([w.audio for w in windows], axis=1)
    assert np.array_equal(audio[:, : plain.shape[1]], plain)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_size_of_the_feeds_does_not_matter(engine, tiny, plain, chunk):
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    audio = drive(engine, track, feeder(track, music(), chunk=chunk), until=FRAMES)
    assert np.array_equal(audio[:, : plain.shape[1]], plain)


@pytest.mark.parametrize("deliver_from", [0, 1, 19, 40, 77, 120])
def test_a_resumed_epoch_goes_on_with_the_same_bits(engine, tiny, plain, deliver_from):
    track = new_track(tiny)
    feed_from = max(0, deliver_from - track.geometry.retain)
    track.begin(1, start=0, feed_from=feed_from, deliver_from=deliver_from, offline=True)
    audio = drive(engine, track, feeder(track, music(), first=feed_from), until=FRAMES - deliver_from)
    assert np.array_equal(audio[:, : (FRAMES - deliver_from) * FRAME], plain[:, deliver_from * FRAME :])


def test_resuming_without_enough_input_is_refused(tiny):
    track = new_track(tiny)
    with pytest.raises(DemonError, match="feed_from"):
        track.begin(1, start=0, feed_from=100, deliver_from=110, offline=True)


def test_other_tracks_do_not_change_a_tracks_bits(engine, tiny, plain):
    others = [new_track(tiny, f"other{k}", config=make_config("noise", k, 3, "sde")) for k in range(3)]
    for other in others:
        other.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
        engine.tracks[other.id] = other
        feeder(other, music(seed=other.sound.config.seed), chunk=64)()
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
    audio = drive(engine, track, feeder(track, music()), until=FRAMES)
    for other in others:
        engine.remove(other.id)
    assert np.array_equal(audio[:, : plain.shape[1]], plain)


def test_a_timeline_position_does_not_change_the_sound_of_silence_before_it(engine, tiny):
    """An epoch that starts inside a hop, at a negative position, ends exactly where it was ended."""
    track = new_track(tiny)
    start = -33 * FRAME + 100
    track.begin(3, start=start, feed_from=-33, deliver_from=-33, offline=False)
    feeder(track, music(), first=-33, chunk=50, epoch=3)()
    track.finish(3, 17)
    engine.tracks[track.id] = track
    windows = []
    while engine.has_work():
        windows += engine.step().windows
    engine.remove(track.id)
    assert windows[0].frame == -33
    assert all(a.frame + a.count == b.frame for a, b in itertools.pairwise(windows))
    assert windows[-1].frame + windows[-1].count >= 17
    assert not track.has_epoch(3)


def test_a_dropped_epoch_leaves_nothing_in_flight(engine, tiny):
    track = new_track(tiny)
    track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
    engine.tracks[track.id] = track
    feed = feeder(track, music(), chunk=64)
    feed()
    feed()
    engine.step()
    assert engine.progress()
    engine.drop(track.id, 1)
    assert not engine.progress()
    assert not engine.has_work()
    engine.remove(track.id)


def test_what_a_client_may_do_wrong_has_a_name(tiny):
    def code_of(action):
        with pytest.raises(DemonError) as caught:
            action()
        return caught.value.code

    assert code_of(lambda: new_track(tiny, latency=10)) == "E_LATENCY"
    track = new_track(tiny)
    silence, lanes = np.zeros((2, FRAME), dtype=np.float32), np.zeros((1, 2), dtype=np.float32)
    assert code_of(lambda: track.feed(1, 0, silence, lanes)) == "E_EPOCH"
    track.begin(2, start=0, feed_from=0, deliver_from=0, offline=False)
    assert code_of(lambda: track.begin(2, start=0, feed_from=0, deliver_from=0, offline=False)) == "E_EPOCH"
    assert code_of(lambda: track.feed(2, 5, silence, lanes)) == "E_FEED_GAP"
    assert code_of(lambda: track.finish(2, 5)) == "E_FEED_GAP"
    track.feed(2, 0, silence, lanes)
    track.feed(2, 0, silence, lanes)  # a repeat is harmless
    assert track.book.positions[2] == 1
    track.finish(2, 1)
    assert code_of(lambda: track.feed(2, 1, silence, lanes)) == "E_EPOCH"
    full = new_track(tiny)
    full.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
    feed = feeder(full, music(), chunk=64)
    assert code_of(lambda: [feed() for _ in range(60)]) == "E_LIMIT"


def test_a_hop_that_fails_costs_its_own_track_only(tiny, plain):
    engine = Engine(tiny)
    broken, good = new_track(tiny, "broken"), new_track(tiny, "good")
    for track in (broken, good):
        track.begin(1, start=0, feed_from=0, deliver_from=0, offline=True)
        engine.tracks[track.id] = track
    broken.take = lambda hop: (_ for _ in ()).throw(RuntimeError("no memory"))
    feeder(broken, music(), chunk=64)()
    feed = feeder(good, music(), chunk=64)
    failures, windows = [], []
    while sum(w.count for w in windows) < FRAMES:
        feed()
        result = engine.step()
        failures += result.failures
        windows += result.windows
    assert [hop.track for hop, _ in failures] == ["broken"]
    audio = np.concatenate([w.audio for w in windows], axis=1)
    assert np.array_equal(audio[:, : plain.shape[1]], plain)


@pytest.mark.parametrize("rate", [44_100, 96_000])
def test_other_rates_keep_length_and_place(engine, rate):
    """A held source sounds as it does at 48 kHz, at the same times."""
    size = samples_per_frame(rate)
    source = music(100, rate)
    source[:, 99 * size + 17 :] = 0
    held = bounce(engine, source=source[:, : 99 * size + 17], rate=rate, lanes={"source_blend": 0.0})
    assert held.shape == (2, 99 * size + 17)
    at_model_rate = np.ascontiguousarray(soxr.resample(source.T, rate, RATE, quality="VHQ").T, dtype=np.float32)
    expected = soxr.resample(
        bounce(engine, source=at_model_rate, lanes={"source_blend": 0.0}).T, RATE, rate, quality="VHQ"
    ).T
    inside = slice(5 * size, 90 * size)
    np.testing.assert_allclose(held[:, inside], expected[:, inside], atol=1e-4 * np.abs(expected).max())


def test_a_track_that_names_what_is_not_here_is_freed_when_it_leaves(tiny):
    """An error that is kept must not keep the frames that it passed, which hold the track."""
    engine = Engine(tiny)
    gc.disable()
    try:
        engine.tracks["t"] = stream(tiny, config=make_config("x", 7, loras=["0f" * 32]), loras=engine.loras)
        track = weakref.ref(engine.tracks["t"])
        engine.remove("t")
        assert track() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_samples_that_are_far_too_loud_are_still_music(tiny, rate):
    """The model squares them: what is infinite then would end the track."""
    size = rate // 25
    source = music(100, rate)
    source[0, 50 * size] = 3e38
    heard = render(Engine(tiny), source, rate, build_table({"denoise": 0.6}, 100), CONFIG)
    assert np.isfinite(heard).all()
