# SPDX-License-Identifier: Apache-2.0
"""A GPU whose memory is full: what was to be made fails and says so, and everything that comes after is as it should be."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from stand_ins import Nonlinear, alone, prompt, request, ring_shape
from test_cli import demon, tone
from torch.utils._python_dispatch import TorchDispatchMode
from track_rig import FRAME, audio_of, feed_clip, finish, loop_track, music, stream

from engine_server.diffusion import compositing, rows, slots
from engine_server.diffusion.ring import Ring
from engine_server.model.dit import DitForward
from engine_server.serve.warm_up import warm_up
from engine_server.serve.worker import _engine_error
from engine_server.tracks.engine import Engine
from shared_protocol.errors import DemonError

FRAMES = 60
SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 MiB is free."
)
ADVICE = (
    " Process 1 has 7.99 GiB memory in use. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF."
)


class Held:
    """Stands for the memory that a failing forward holds."""


class Full:
    """A decoder whose forward with this number, of those of so many frames if it is said, finds no memory."""

    def __init__(self, decoder, failing, frames=None):
        self.encode, self._decoder = decoder.encode, decoder
        self._failing, self._frames, self._calls = failing, frames, 0
        self.held = []

    def __call__(self, *args):
        counts = self._frames in (None, args[0].shape[1])
        self._calls += counts
        if counts and self._calls - 1 == self._failing:
            activations = Held()
            self.held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError(SAID + ADVICE)
        return self._decoder(*args)


@pytest.mark.parametrize("failing", [0, 1, 2, 5])
def test_a_ring_is_as_it_was(failing):
    """With two forwards per tick, the first or the second failing: no state moves, and the ticks after it lose no bit."""
    ring = Ring(Full(Nonlinear(), failing), ring_shape(6), batch=4)
    requests = [request(number, steps=4, solver="sde", guidance=2.0, guidance_mode="self") for number in range(6)]
    for one in requests:
        ring.admit(one)
    finished, failures = [], 0
    while ring.busy:
        before = [ring.state(one.request_id) for one in requests], ring.progress(), ring.ticks
        try:
            finished += ring.tick()
        except torch.OutOfMemoryError:
            failures += 1
            after = [ring.state(one.request_id) for one in requests], ring.progress(), ring.ticks
            assert all(map(torch.equal, before[0], after[0]))
            assert before[1:] == after[1:]
    assert failures == 1
    assert len(finished) == len(requests)
    assert all(torch.equal(done.latent, alone(done.request)) for done in finished)


class ShortAfter(TorchDispatchMode):
    """torch finds no memory from an operation on."""

    def __init__(self, operations):
        super().__init__()
        self._left = operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._left == 0:
            raise torch.OutOfMemoryError(SAID)
        self._left -= 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1, 2])
def test_at_whatever_operation_of_a_tick_memory_runs_out_the_next_tick_is_this_one_again(steps):
    """Of a tick that finishes its slots, too: no finished latents are lost."""
    requests = [request(number, steps=steps, solver="sde", guidance=2.0, guidance_mode="self") for number in range(2)]
    expected, ready = [alone(one) for one in requests], False
    for operations in range(2000):
        ring = Ring(Nonlinear(), ring_shape(2))
        for one in requests:
            ring.admit(one)
        before = [ring.state(one.request_id) for one in requests], ring.progress()
        try:
            with ShortAfter(operations):
                finished = ring.tick()
            ready = True
        except torch.OutOfMemoryError:
            assert all(map(torch.equal, before[0], [ring.state(one.request_id) for one in requests]))
            assert (ring.progress(), ring.ticks) == (before[1], 0)
            finished = []
        while ring.busy:
            finished += ring.tick()
        assert [done.request_id for done in finished] == [0, 1]
        assert all(map(torch.equal, [done.latent for done in finished], expected))
        if ready:
            break
    assert ready
    assert operations > 20


class Short:
    """A function that finds no memory once it was called so often."""

    def __init__(self, works, allowed):
        self._works, self._left = works, allowed
        self.has_run_out = False

    def __call__(self, *given):
        if self._left == 0:
            self.has_run_out = True
            raise torch.OutOfMemoryError(SAID)
        self._left -= 1
        return self._works(*given)


@pytest.mark.parametrize("place", [(compositing, "_grown"), (slots, "upload"), (rows, "upload")])
def test_a_slot_that_finds_no_memory_while_it_is_filled_can_be_filled_again(monkeypatch, place):
    """Whatever was to be written when memory ran out: neighbours keep their bits, and the same request has its own afterwards."""
    first = request(0, steps=6)
    second = request(
        1,
        steps=6,
        conditions=[prompt(1), prompt(2), prompt(3)],
        negatives=[prompt(4)],
        guidance=2.0,
        adapters=torch.tensor([0.4]),
    )
    module, name = place
    works, failures = getattr(module, name), 0
    for allowed in range(100):
        ring, short = Ring(Nonlinear(), ring_shape(2)), Short(works, allowed)
        ring.admit(first)
        ring.tick()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, short)
            try:
                ring.admit(second)
            except torch.OutOfMemoryError:
                failures += 1
        if not short.has_run_out:
            break
        ring.tick()
        ring.admit(second)
        finished = []
        while ring.busy:
            finished += ring.tick()
        assert [done.request_id for done in finished] == [0, 1]
        assert all(torch.equal(done.latent, alone(done.request)) for done in finished)
    assert failures > 0


def begin(engine, track, epoch):
    """A bounce of a stream, all of it fed."""
    engine.tracks[track.id] = track
    track.begin(epoch, start=0, feed_from=0, deliver_from=0, offline=True)
    track.feed(epoch, 0, music(FRAMES), np.full((FRAMES, 1), 0.6, dtype=np.float32))
    track.finish(epoch, FRAMES)


def test_the_hops_of_a_failed_tick_fail_loudly_and_the_engine_goes_on(tiny):
    """Two streams share the ring that fails, a commit has another one; afterwards the streams are bounced anew."""
    plain = Engine(tiny)
    begin(plain, stream(tiny, "a"), 1)
    expected = audio_of(finish(plain), "a")

    full = Full(tiny.decoder, 2, stream(tiny).geometry.window_frames)
    engine = Engine(dataclasses.replace(tiny, decoder=full))
    tracks = [stream(tiny, name) for name in ("a", "b")]
    for track in tracks:
        begin(engine, track, 1)
    commit = loop_track(tiny, "c")
    engine.tracks["c"] = commit
    feed_clip(commit, music(FRAMES), kind="commit")
    failures, windows = [], []
    while engine.has_work():
        result = engine.step()
        failures += result.failures
        windows += result.windows
    assert {(hop.track, hop.epoch) for hop, _ in failures} == {("a", 1), ("b", 1)}
    for _, reason in failures:
        assert isinstance(reason, DemonError)
        assert reason.code == "E_MEMORY"
        assert f"the GPU's memory is full ({SAID.rstrip('.')}); end what" in reason.message
        assert "nvidia-smi" in reason.message
        assert _engine_error(reason).code == "E_ENGINE"  # as clients know it, with the reason in its text
        assert _engine_error(reason).message == str(reason)
    gc.collect()
    assert [reference() for reference in full.held] == [None]  # nothing keeps what the forward held
    assert audio_of(windows, "c").shape == (2, FRAMES * FRAME)
    for track in tracks:
        begin(engine, track, 2)
    windows = finish(engine)
    for track in tracks:
        assert np.array_equal(audio_of(windows, track.id, 2), expected)


def test_a_server_that_cannot_warm_up_says_why(tiny):
    with pytest.raises(DemonError, match="E_MEMORY: the GPU's memory is full"):
        warm_up(Engine(dataclasses.replace(tiny, decoder=Full(tiny.decoder, 0))))


def test_a_render_without_memory_ends_with_a_line(tiny_folder, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError(SAID)

    monkeypatch.setattr(DitForward, "__call__", fail)
    done = demon("render", tone(tmp_path / "in.wav"), "--model", tiny_folder, "--out", tmp_path / "out.wav")
    assert done.exit_code == 1
    assert "E_MEMORY: the GPU's memory is full" in done.stderr
    assert not (tmp_path / "out.wav").exists()
