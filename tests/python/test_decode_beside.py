# SPDX-License-Identifier: Apache-2.0
"""Audio that is made beside the next tick: when it is handed out, what becomes of it, and how far ahead of it the host is."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from device_rig import GPU, simulated_gpu
from track_rig import FRAME, audio_of, feed_clip, finish, loop_track, music, stream

from engine_server.diffusion.ring import Ring
from engine_server.model.aside import Aside, Lead
from engine_server.model.checkpoint import load_checkpoint
from engine_server.session import Session
from engine_server.tracks.engine import Engine
from engine_server.types import Audio
from shared_protocol.messages import make_config

FRAMES = 60
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU: decodes on a stream of its own"
)


@pytest.fixture
def gpu(monkeypatch):
    """Slow: nothing is done before the host waits for it."""
    with simulated_gpu(monkeypatch) as there:
        yield there


@pytest.fixture
def checkpoint(gpu, tiny_folder):
    return load_checkpoint(str(tiny_folder), device="cuda", dtype="float32")


def fed(engine, name="a", epoch=1, *, offline=True):
    """A stream, all of it fed: six steps per hop."""
    track = engine.tracks.get(name) or stream(engine.checkpoint, name, config=make_config("strings", 7, 6))
    engine.tracks[name] = track
    track.begin(epoch, start=0, feed_from=0, deliver_from=0, offline=offline)
    track.feed(epoch, 0, music(FRAMES), np.full((FRAMES, 1), 0.7, dtype=np.float32), came_at=0.0)
    track.finish(epoch, FRAMES)
    return track


def step_until_decoding(engine, track):
    """Up to the step that begins the first audio of a track, without any other step's."""
    for _ in range(50):
        result = engine.step()
        assert not result.failures, result.failures
        assert not result.windows
        if track.decoding():
            return
    raise AssertionError("nothing is ever decoded")


def test_what_the_simulated_streams_catch(gpu):
    """The simulation's own rules: each order that is missing, in either direction, and memory that is given back too early."""
    streams, values = gpu.streams, torch.arange(4.0).to(GPU)
    side = torch.cuda.Stream(GPU)

    def beside(work, *, ordered=True):
        if ordered:
            side.wait_stream(torch.cuda.current_stream(GPU))
        with torch.cuda.stream(side):
            return work()

    with pytest.raises(AssertionError, match="yet to write"):
        beside(lambda: values + 1, ordered=False)
    made = beside(lambda: values + 1)
    with pytest.raises(AssertionError, match="yet to write"):
        made.sum()
    with pytest.raises(AssertionError, match="may still read"):
        values.zero_()
    torch.cuda.current_stream(GPU).wait_stream(side)
    assert made.cpu().tolist() == [1.0, 2.0, 3.0, 4.0]
    values.zero_()

    host = torch.empty(4, pin_memory=True)
    done = torch.cuda.Event()
    beside(lambda: host.copy_(values, non_blocking=True))
    done.record(side)
    assert not done.query()
    assert host.isnan().all()
    done.synchronize()
    assert host.tolist() == [0.0] * 4
    assert streams.waits == ["event"]

    for is_kept in (True, False):
        given = values + 1
        if is_kept:
            given.record_stream(side)
        beside(given.sum)
        del given
        gc.collect()
        assert bool(streams.hazards) is not is_kept
    streams.hazards.clear()


def test_what_runs_aside(gpu):
    """It is ordered after what came before, and holds what it was given; what the host gets is there when it says so."""
    aside = Aside(GPU)
    given = torch.arange(6.0).reshape(2, 3).to(GPU) * 2
    arriving = aside.run(lambda values: values[:, 1:] + 1, given)
    del given
    gc.collect()
    gpu.downloads.clear()
    assert not arriving.is_here()
    first = arriving.wait()
    assert arriving.is_here()
    assert first.tolist() == [[3.0, 5.0], [9.0, 11.0]]
    assert not getattr(first, "is_pinned_here", False)
    assert not gpu.downloads
    assert aside.run(lambda values: values, torch.ones(2, device=GPU)).wait().tolist() == [1.0, 1.0]


def test_on_the_cpu_all_is_done_at_once():
    values = torch.arange(3.0)
    arriving = Aside(torch.device("cpu")).run(lambda given: given + 1, values)
    assert arriving.is_here()
    assert arriving.wait().tolist() == [1.0, 2.0, 3.0]
    lead = Lead(torch.device("cpu"))
    lead.keep()
    assert lead.ticks == 0


def test_the_host_is_one_tick_ahead(gpu, checkpoint, monkeypatch):
    """Never two; and where nothing is admitted it does launch a tick before the one before is done."""
    main, compute, launched, is_ahead = torch.cuda.current_stream(GPU), Ring.compute, [], set()

    def watched(ring):
        known = gpu.streams.host.get(main, 0)
        assert known >= (launched[-2] if len(launched) > 1 else 0)
        is_ahead.add(known < launched[-1] if launched else False)
        step = compute(ring)
        launched.append(main.known[main])
        return step

    monkeypatch.setattr(Ring, "compute", watched)
    engine = Engine(checkpoint)
    fed(engine)
    finish(engine)
    assert len(launched) > 4
    assert is_ahead == {True, False}


def test_what_is_dropped_is_never_handed_out(gpu, checkpoint):
    """With its epoch, with its track, or because a client says hello again."""
    engine = Engine(checkpoint)
    track = fed(engine)
    step_until_decoding(engine, track)
    engine.drop("a", 1)
    assert not engine.has_work()
    assert not engine.step().windows
    fed(engine, epoch=2)
    step_until_decoding(engine, track)
    engine.tracks["a"] = stream(checkpoint, "a")
    while engine.has_work():
        assert not engine.step().windows
    track = fed(engine)
    step_until_decoding(engine, track)
    engine.remove("a")
    assert not engine.has_work()
    assert not engine.step().windows
    assert engine.stats() == {}
    track = fed(engine, "b")
    windows = finish(engine)
    assert {window.track for window in windows} == {"b"}
    assert not track.has_epoch(1)


def test_audio_that_is_not_finite_fails_its_own_track(gpu, checkpoint, monkeypatch):
    engine, decode, calls = Engine(checkpoint), checkpoint.codec.decode, []

    def once_broken(latents, position=0):
        calls.append(position)
        return decode(latents, position) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(checkpoint.codec, "decode", once_broken)
    tracks = [fed(engine, name) for name in ("a", "b")]
    failures, windows = [], []
    while engine.has_work():
        result = engine.step()
        failures += result.failures
        windows += result.windows
    ((hop, reason),) = failures
    assert str(reason) == "the model's output is not finite"
    other = {"a": "b", "b": "a"}[hop.track]
    assert audio_of(windows, other).shape[1] >= FRAMES * FRAME
    assert np.isfinite(audio_of(windows, other)).all()
    assert not any(track.has_epoch(1) for track in tracks)


def test_a_hop_is_late_when_its_audio_is(gpu, checkpoint):
    """It counts when it is handed out, not when its latents were finished."""
    now = [0.0]
    engine = Engine(checkpoint, clock=lambda: now[0])
    track = fed(engine, offline=False)
    step_until_decoding(engine, track)
    before = engine.stats()["a"]
    assert before.misses == 0
    now[0] = 1000.0
    assert engine.step().windows
    after = engine.stats()["a"]
    assert after.generations > before.generations
    assert after.misses == after.generations - before.generations
    assert 900.0 < after.worst_lateness_s < 1000.0


def test_a_commit_is_over_once_its_audio_is_handed_out(gpu, checkpoint):
    engine = Engine(checkpoint)
    track = loop_track(checkpoint)
    engine.tracks[track.id] = track
    feed_clip(track, music(FRAMES), kind="commit")
    frames = 0
    while track.has_epoch(1):
        assert engine.has_work()
        result = engine.step()
        assert not result.failures, result.failures
        frames += sum(window.count for window in result.windows)
    assert frames == FRAMES
    assert not engine.has_work()


def test_a_stream_ticks_while_it_decodes(gpu, tiny_folder):
    """What was begun is there after the next tick, with the bits of a decode that waits; both on one stream."""
    session = Session(str(tiny_folder), device="cuda", dtype="float32", vae_window=0.4)
    source = session.prepare_source(Audio.of(music(FRAMES), 48_000))
    handle = session.stream(source=source, conditioning=session.encode_text(tags="strings"), steps=3)
    latent = handle.generate(seed=1)
    coming = handle.begin_decode(latent, t_start=0.8)
    before = len(gpu.streams.waits)
    handle.advance()
    assert not coming.is_ready()
    assert len(gpu.streams.waits) == before
    heard, expected = coming.result(), session.decode(latent, t_start=0.8)
    assert torch.equal(heard.waveform, expected.waveform)
    assert heard.waveform.abs().max() > 0
    assert (
        (heard.start_sample, heard.sample_rate) == (expected.start_sample, expected.sample_rate) == (20 * FRAME, 48_000)
    )
    assert len(gpu.late_downloads) == 2


@needs_gpu
def test_no_decode_waits_for_the_gpu(tiny_folder):
    """By CUDA itself: a window is begun without waiting, is not there while what was launched before it runs, and is right."""
    checkpoint = load_checkpoint(str(tiny_folder), device="cuda", dtype="float32")
    latents = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)).cuda()
    expected = checkpoint.codec.decode(latents[None])[0].cpu()
    aside = checkpoint.aside
    aside.run(lambda given: checkpoint.codec.decode(given[None])[0], latents).wait()  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)
        arriving = aside.run(lambda given: checkpoint.codec.decode(given[None])[0], latents)
        assert not arriving.is_here()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(arriving.wait(), expected)
