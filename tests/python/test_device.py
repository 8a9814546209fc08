# SPDX-License-Identifier: Apache-2.0
"""The engine's work on a GPU, a simulated one and a real one: all of it lies there, and the host waits only where it must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from device_rig import GPU, OnGpu, simulated_gpu, take_the_kernels_of_a_gpu
from tiny_checkpoint import build_tiny_checkpoint
from track_rig import RATE, audio_of, edits, feed_clip, finish, loop_track, music, stream, take_of, write_lora

from engine_server.diffusion.controls import Controls
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.ring import Ring
from engine_server.diffusion.rows import RingShape
from engine_server.diffusion.upload import upload
from engine_server.doctor.model import check_rows
from engine_server.model.aside import Arriving, Aside
from engine_server.model.checkpoint import load_checkpoint
from engine_server.session import Session
from engine_server.tracks.curves import build_table
from engine_server.tracks.engine import Engine
from engine_server.tracks.lanes import ACTED_LANES, CLIP_LANES
from engine_server.tracks.references import reference_hash
from engine_server.tracks.render import render
from engine_server.tracks.render_clip import render_clip
from engine_server.types import Audio, NoiseMask
from shared_protocol import messages
from shared_protocol.lanes import load_lanes
from shared_protocol.messages import make_config
from tests.bench.requests import plain
from tests.bench.step import CheapDecoder

FRAMES = 60
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: runs the engine on CUDA")


def test_what_is_on_the_simulated_gpu_stays_there(monkeypatch):
    """The simulation's own rules."""
    with simulated_gpu(monkeypatch) as gpu:
        there = torch.arange(6.0).reshape(2, 3).to(GPU)
        assert gpu.slow_uploads == [(2, 3)]
        row, more = there[0], torch.ones(2, 3, device=GPU)
        row += 1.0
        assert isinstance(more.new_zeros(2), OnGpu)
        assert isinstance(torch.where(there > 1, there, 0.0), OnGpu)
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: there[torch.tensor([0])],
            lambda: torch.where(torch.ones(2, 1, dtype=torch.bool), there, more),
            lambda: torch.cat([there, torch.ones(1, 3)]),
        ):
            with pytest.raises(RuntimeError, match="mixes"):
                wrong()
        for wrong in (lambda: there.numpy(), lambda: np.asarray(there)):
            with pytest.raises((TypeError, RuntimeError)):
                wrong()
        assert not gpu.reads
        assert not gpu.downloads
        assert bool(there.any())
        assert there.cpu().tolist() == [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]
        assert (gpu.reads, gpu.downloads) == (["_local_scalar_dense"], [(2, 3)])
        there.copy_(torch.zeros(2, 3).pin_memory(), non_blocking=True)
        assert gpu.slow_uploads == [(2, 3)]
        with pytest.raises(RuntimeError, match="single memory location"):
            torch.zeros(3).expand(2, 3).pin_memory()
        torch.zeros(2, 6)[:, ::2].pin_memory().to(GPU, non_blocking=True)
        assert gpu.slow_uploads == [(2, 3)] * 2
        assert there.cpu().tolist() == [[0.0] * 3] * 2


def test_values_of_any_layout_go_up_without_a_wait_and_may_be_written_to_at_once(monkeypatch):
    with simulated_gpu(monkeypatch) as gpu:
        base = torch.arange(12.0).reshape(3, 4)
        for values in (base[:, ::2], base.T, base[:1].expand(5, 4), base[0, 0], base.numpy()):
            assert upload(values, GPU).cpu().tolist() == values.tolist()
        own = torch.ones(2).pin_memory()
        there = upload(own, GPU)
        own.zero_()
        assert there.cpu().tolist() == [1.0, 1.0]
        assert not gpu.slow_uploads


class Bench:
    """The same work on the CPU, with a GPU's choice of kernels, and on the simulated GPU."""

    def __init__(self, monkeypatch, folder):
        self._monkeypatch, self._folder = monkeypatch, str(folder)
        self.gpu = None
        self.log = []
        """Of the work on the simulated GPU: `tick`, `begin` (of a decode), `wait` (for its audio)."""

    def compare(self, work, load=load_checkpoint, *, is_fast=False):
        """`work(load(folder))` in both places: equal arrays; the bench then has the simulated GPU's account of it."""
        take_the_kernels_of_a_gpu(self._monkeypatch)
        expected = work(load(self._folder, device="cpu"))
        with simulated_gpu(self._monkeypatch) as self.gpu:
            loaded = load(self._folder, device="cuda", dtype="float32")
            self.gpu.downloads.clear()
            self.gpu.streams.is_fast = is_fast
            self.forbid_waits_in_ticks()
            self.keep_log()
            got = work(loaded)
        assert np.isfinite(expected).all()
        assert np.array_equal(got, expected)
        return got

    def forbid_waits_in_ticks(self):
        """From now on a tick for which the host has to wait raises, the first one of a ring too."""
        compute, take, gpu = Ring.compute, Ring.take, self.gpu

        def unwaiting(half):
            def run(ring, *arguments):
                before = gpu.waits
                result = half(ring, *arguments)
                assert gpu.waits == before, (gpu.downloads, gpu.reads, gpu.slow_uploads)
                return result

            return run

        self._monkeypatch.setattr(Ring, "compute", unwaiting(compute))
        self._monkeypatch.setattr(Ring, "take", unwaiting(take))

    def keep_log(self):
        for owner, name, word in ((Ring, "compute", "tick"), (Aside, "run", "begin"), (Arriving, "wait", "wait")):
            self._monkeypatch.setattr(owner, name, self._logged(getattr(owner, name), word))

    def _logged(self, method, word):
        def run(*arguments):
            self.log.append(word)
            return method(*arguments)

        return run


@pytest.fixture
def bench(monkeypatch, tiny_folder):
    return Bench(monkeypatch, tiny_folder)


def drawn(lane, frames, phase):
    """A curve of a lane that goes through its range, without its extremes."""
    row = load_lanes()[lane]
    share = 0.5 + 0.4 * np.sin(phase + np.arange(frames) / 9)
    return (row.minimum + share * (row.maximum - row.minimum)).astype(np.float32)


def all_lanes(lanes, frames=FRAMES):
    """Every lane in motion, but for a correction that would make a random model's results too large to say anything."""
    quiet = {"dcw_scaler": 0.1, "dcw_high_scaler": 0.1, "guidance": 1.5, "velocity_scale": 0.9}
    curves = {lane: drawn(lane, frames, phase) for phase, lane in enumerate(lanes) if lane not in quiet}
    gains = {lane: 1.0 + 0.01 * number for number, lane in enumerate(lanes) if lane.startswith("gain_")}
    return curves | gains | {lane: value for lane, value in quiet.items() if lane in lanes}


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_bounce(bench, is_fast):
    """Audio is the only thing that leaves the GPU, and it does so beside the tick after the one that has made it possible."""
    windows = []

    def work(checkpoint):
        windows.clear()
        table = build_table({"denoise": 0.6}, FRAMES)
        return render(
            Engine(checkpoint),
            music(FRAMES),
            RATE,
            table,
            make_config("strings", 7),
            on_window=lambda *_: windows.append(1),
        )

    bench.compare(work, is_fast=is_fast)
    assert not bench.gpu.downloads
    assert len(bench.gpu.late_downloads) == len(windows) > 1
    assert {len(shape) for shape in bench.gpu.late_downloads} == {2}  # audio, and nothing else
    begun, waited = ([place for place, what in enumerate(bench.log) if what == word] for word in ("begin", "wait"))
    ticks_between = [bench.log[a:b].count("tick") for a, b in zip(begun, waited, strict=True)]
    assert set(ticks_between[:-1]) == {0 if is_fast else 1}


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_a_bounce_with_everything(bench, tiny, tmp_path, solver):
    """Every lane in motion, references, LoRAs, both prompts, and a host's own rate."""
    write_lora(tmp_path / "a.safetensors", tiny, seed=1, scale=0.1)
    write_lora(tmp_path / "b.safetensors", tiny, seed=2, scale=0.1)
    rate, timbre, structure = 44_100, music(30, seed=1), music(25, rate=44_100, seed=2)
    references = [(timbre, RATE), (structure, 44_100)]

    def work(checkpoint):
        engine = Engine(checkpoint, loras=[tmp_path])
        config = make_config(
            "strings", 7, 3, solver, prompt_b="brass", bpm=120, meter=4, loras=[engine.loras.find("a"), engine.loras.find("b")],
            timbre=reference_hash(*references[0]), structure=reference_hash(*references[1]),
        )  # fmt: skip
        table = build_table(all_lanes(ACTED_LANES), FRAMES)
        return render(engine, music(FRAMES, rate=rate), rate, table, config, references=references)

    bench.compare(work)
    assert bench.gpu.downloads.count((750, 64)) == 1  # the timbre, whose hash finds its vector


def test_live_streams_side_by_side(bench):
    def work(checkpoint):
        engine = Engine(checkpoint)
        tracks = [
            stream(checkpoint, "a", lanes=("denoise", "mask")),
            stream(checkpoint, "b", config=make_config("brass", 3, 3, "sde"), lanes=("denoise", "source_blend")),
        ]
        windows = []
        for track in tracks:
            engine.tracks[track.id] = track
            track.begin(1, start=0, feed_from=0, deliver_from=0, offline=False)
        for frame in range(FRAMES):
            for number, track in enumerate(tracks):
                audio = music(FRAMES, seed=number)[:, frame * 1920 : (frame + 1) * 1920]
                track.feed(1, frame, audio, np.float32([[0.7, 0.9]]))
            result = engine.step()
            assert not result.failures, result.failures
            windows += result.windows
        for track in tracks:
            track.finish(1, FRAMES)
        windows += finish(engine)
        return np.stack([audio_of(windows, track.id) for track in tracks])

    bench.compare(work)


def test_a_loop_whose_lanes_move(bench, tiny, tmp_path):
    """Takes, edits that reach those in flight, and feedback."""
    write_lora(tmp_path / "a.safetensors", tiny, scale=0.1)

    def work(checkpoint):
        engine = Engine(checkpoint, loras=[tmp_path])
        config = make_config("strings", 7, 4, loras=[engine.loras.find("a")])
        lanes = (
            "denoise",
            "feedback",
            "feedback_depth",
            "velocity_scale",
            "guidance",
            "lora_1",
            "x0_target",
            "dcw_scaler",
        )
        track = loop_track(checkpoint, config=config, lanes=lanes, loras=engine.loras)
        engine.tracks[track.id] = track
        table = np.tile(np.float32([0.8, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), (FRAMES, 1))
        feed_clip(track, music(FRAMES), lanes=table)
        moves = {4: (3, 0.9), 6: (4, 1.5), 8: (5, 0.5), 10: (6, 0.3), 12: (7, 0.05), 14: (1, 0.4), 16: (2, 3.0)}
        windows = []
        for step in range(40):
            if step in moves:
                column, value = moves[step]
                track.edit(1, edits((column, 10, 50, value)))
            result = engine.step()
            assert not result.failures, result.failures
            windows += result.windows
        track.edit(1, edits((1, 0, FRAMES, 0.0)))
        windows += finish(engine)
        return take_of(windows)

    bench.compare(work)


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_commit(bench, rate):
    """Feedback unrolled, and every lane of a clip."""

    def work(checkpoint):
        table = build_table(all_lanes(CLIP_LANES), FRAMES, CLIP_LANES)
        config = make_config("strings", 7, 3, feedback_rounds=2)
        return render_clip(Engine(checkpoint), music(FRAMES, rate=rate), rate, table, config)

    bench.compare(work)


def test_a_checkpoint_with_a_tokenizer(monkeypatch, tmp_path):
    folder = build_tiny_checkpoint(tmp_path / "hints", cover_context="tokenizer")

    def work(checkpoint):
        table = build_table({"denoise": 0.8, "structure": 0.5}, FRAMES)
        return render(Engine(checkpoint), music(FRAMES), RATE, table, make_config("strings", 7))

    Bench(monkeypatch, folder).compare(work)


def test_a_session(bench, tiny, tmp_path):
    """What the Python API adds to the tracks: several prompts, masks, repaint, shared values, and windows of a decode."""
    write_lora(tmp_path / "a.safetensors", tiny, scale=0.1)

    def work(session):
        source = session.prepare_source(Audio.of(music(FRAMES), RATE))
        timbre = session.timbre_reference(Audio.of(music(20, seed=1), RATE), 0.5)
        words = session.encode_text(tags="strings", timbre=[timbre])
        other = session.encode_text(tags="brass", lyrics="la", bpm=120)
        both = words.combined(other, weight=np.linspace(0, 1, FRAMES, dtype=np.float32))
        lora = session.apply_lora(tmp_path / "a.safetensors", 0.5)
        curve = np.linspace(0.2, 0.9, FRAMES, dtype=np.float32)
        first = session.generate(
            conditioning=both,
            source=source,
            denoise=curve,
            steps=3,
            seed=1,
            guidance_curve=1.5,
            sde_denoise_curve=curve,
        )
        mask = NoiseMask(curve, source.latent)
        second = session.generate(
            conditioning=words.blended(other, 0.3),
            source=source,
            steps=3,
            method="sde",
            noise_mask=mask,
            loras={lora: 1.0},
        )
        third = session.generate(
            conditioning=words, source_latent=first, steps=2, **session.repaint(source, [(0.4, 1.0)])
        )
        handle = session.stream(source=source, conditioning=words, steps=3)
        handle.pipeline.set_shared_curve("velocity_scale", curve)
        handle.pipeline.set_channel_gain_tensor(torch.full((1, 64), 1.1))
        handle.tick()
        handle.pipeline.set_dcw(enabled=True, mode="double")
        fourth = handle.drain()[0]
        heard = [session.decode(latent).waveform.numpy() for latent in (first, second, third, fourth)]
        heard.append(np.pad(session.decode_window(first, 10, 20).waveform.numpy(), ((0, 0), (0, 40 * 1920))))
        return np.stack(heard)

    bench.compare(work, Session)


@pytest.mark.parametrize(("dcw", "launches"), [(None, 10), (DcwSettings(), 23)])
def test_what_a_tick_launches_beside_the_forward(monkeypatch, dcw, launches):
    """The developers' document says so; one of them brings the slots' times."""
    shape = RingShape(depth=4, frames=FRAMES, channels=64, tokens=8, width=16)
    with simulated_gpu(monkeypatch) as gpu:
        ring = Ring(CheapDecoder(), shape, controls=Controls(dcw=dcw, device=GPU), device=GPU)
        for number in range(4):
            ring.admit(replace(plain(number, shape), steps=8))
        ring.tick()
        stream = gpu.streams.current
        before = stream.known[stream]
        ring.tick()
        assert stream.known[stream] - before == launches


def test_rows_are_looked_at_where_they_are_computed(bench):
    bench.compare(lambda checkpoint: np.array(check_rows(checkpoint).status == "ok"))
    assert bench.gpu.waits


def test_a_gpu_is_named_to_clients_and_in_receipts(monkeypatch, tiny_folder):
    with simulated_gpu(monkeypatch):
        for backend in ("eager", "compile"):
            named = Engine(load_checkpoint(str(tiny_folder), device="cuda", backend=backend)).backend
            assert named.startswith(f"{backend} cuda bfloat16, NVIDIA RTX PRO 6000 Blackwell")
            messages._check_text("backend", named, 1, 64)


def test_a_gpus_own_type_is_bfloat16(monkeypatch, tiny_folder):
    with simulated_gpu(monkeypatch):
        engine = Engine(load_checkpoint(str(tiny_folder), device="cuda"))
        assert engine.checkpoint.placement.device == GPU
        table = build_table({"denoise": 0.6, "guidance": 1.5}, FRAMES)
        heard = render(engine, music(FRAMES), RATE, table, make_config("strings", 7))
    assert np.isfinite(heard).all()
    assert heard.any()


def commit_latents(folder, **options):
    """The latents `[T, C]` of a commit with guidance and a moving denoise, on the host."""
    checkpoint = load_checkpoint(str(folder), **options)
    engine, lanes = Engine(checkpoint), ("denoise", "guidance", "velocity_scale")
    track = loop_track(checkpoint, lanes=lanes, loras=engine.loras)
    engine.tracks[track.id] = track
    feed_clip(
        track,
        music(FRAMES),
        kind="commit",
        lanes=np.stack([drawn("denoise", FRAMES, 0), *np.full((2, FRAMES), 1.2)], 1),
    )
    run = track._runs[1]
    finish(engine)
    return run.latents().cpu()


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_bounces_on_cuda_have_the_same_bits(tiny_folder, dtype):
    first, second = (
        render(
            Engine(load_checkpoint(str(tiny_folder), device="cuda", dtype=dtype)),
            music(FRAMES),
            RATE,
            build_table(all_lanes(ACTED_LANES), FRAMES),
            make_config("strings", 7, 3),
        )
        for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert first.any()


@needs_gpu
def test_cuda_and_the_cpu_agree(tiny_folder):
    """In float32 within a thousandth of the latents' size, a hundred times what their sums may round."""
    expected = commit_latents(tiny_folder, device="cpu")
    got = commit_latents(tiny_folder, device="cuda", dtype="float32")
    assert (got - expected).abs().max() < 1e-3 * expected.std()


@needs_gpu
def test_no_tick_of_the_engine_waits_for_the_gpu(tiny_folder, monkeypatch):
    """By CUDA itself, in a bounce with every lane in motion, but for the first tick, in which libraries set themselves up."""
    compute, calls = Ring.compute, []

    def unwaiting(ring):
        calls.append(ring)
        if len(calls) == 1:
            return compute(ring)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return compute(ring)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Ring, "compute", unwaiting)
    engine = Engine(load_checkpoint(str(tiny_folder), device="cuda"))
    table = build_table(all_lanes(ACTED_LANES), FRAMES)
    assert render(engine, music(FRAMES), RATE, table, make_config("strings", 7, 3, "sde")).any()
    assert len(calls) > 1
