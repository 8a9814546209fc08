# SPDX-License-Identifier: Apache-2.0
"""What tests of tracks are driven with: music, references, LoRA files, and an engine that is fed and stepped."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file

from engine_server.tracks.loop_track import LoopTrack
from engine_server.tracks.lora_catalogue import LoraCatalogue
from engine_server.tracks.references import reference_hash
from engine_server.tracks.track import Track
from shared_protocol import messages as m
from shared_protocol.timebase import samples_per_frame

RATE, FRAME = 48_000, 1920


def music(frames, *, rate=RATE, seed=0):
    """Noise bursts and tones `[2, N]`, different everywhere."""
    samples = frames * samples_per_frame(rate)
    t = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal((2, samples)) * (np.sin(2 * np.pi * t) > 0.5)
    return (0.2 * np.sin(2 * np.pi * (220 + 40 * seed) * t + np.sin(t)) + 0.05 * noise).astype(np.float32)


def pieces(audio, rate, size=65_536):
    """A reference as the wire carries it: (header, samples) of every piece."""
    name, total = reference_hash(audio, rate), audio.shape[1]
    for first in range(0, total, size):
        part = np.ascontiguousarray(audio[:, first : first + size])
        yield m.Reference(name, rate, total, first, part.shape[1]), part


def write_lora(path, checkpoint, *, seed=0, scale=1.0):
    """A LoRA file of rank 2 for every cross attention of a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in checkpoint.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and "cross_attn.to_" in name:
            tensors[f"{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator)
            tensors[f"{name}.lora_B.weight"] = scale * torch.randn(module.out_features, 2, generator=generator)
    save_file(tensors, path)
    return path


def stream(checkpoint, name="t", *, config=None, lanes=("denoise",), loras=None, latency=150):
    """A streaming track at 48 kHz."""
    return Track(
        name,
        checkpoint,
        rate=RATE,
        latency=latency,
        lanes=lanes,
        config=config or m.make_config("strings", 7),
        loras=loras,
    )


def finish(engine, *, limit=5000):
    """Step until there is nothing to do: all windows, and no failure."""
    windows = []
    for _ in range(limit):
        if not engine.has_work():
            return windows
        result = engine.step()
        assert not result.failures, result.failures
        windows += result.windows
    raise AssertionError("the engine is never done")


def audio_of(windows, track, epoch=1):
    """The audio `[2, N]` of an epoch's windows, in order of their frames."""
    mine = sorted((w for w in windows if w.track == track and w.epoch == epoch), key=lambda w: w.frame)
    return np.concatenate([w.audio for w in mine], axis=1)


def loop_track(checkpoint, name="loop", *, config=None, lanes=("denoise",), loras=None, rate=RATE):
    """A track in mode loop."""
    return LoopTrack(
        name,
        checkpoint,
        rate=rate,
        latency=0,
        lanes=lanes,
        config=config or m.make_config("strings", 7),
        loras=loras or LoraCatalogue(checkpoint),
    )


def feed_clip(track, audio, *, epoch=1, kind="loop", start=0, deliver_from=None, value=0.8, lanes=None, chunk=64):
    """Begin an epoch at a frame and feed all of a clip; lanes `[frames, columns]`, or one value for all."""
    size = samples_per_frame(track._rate)
    frames = audio.shape[1] // size
    table = np.full((frames, len(track.lanes)), value, dtype=np.float32) if lanes is None else lanes
    track.begin(
        epoch,
        kind=kind,
        start=start * size,
        feed_from=start,
        deliver_from=start if deliver_from is None else deliver_from,
        offline=kind == "commit",
    )
    for first in range(0, frames, chunk):
        stop = min(first + chunk, frames)
        track.feed(epoch, start + first, audio[:, first * size : stop * size], table[first:stop])
    track.finish(epoch, start + frames)


def take_of(windows, epoch=1):
    """The newest take of every window of a loop, in order of frames: audio `[2, N]`."""
    newest = {}
    for window in windows:
        if window.epoch == epoch and window.take >= getattr(newest.get(window.frame), "take", 0):
            newest[window.frame] = window
    return np.concatenate([newest[frame].audio for frame in sorted(newest)], axis=1)


def edits(*rows):
    """The payload of an edit message from (column, first, stop, value)."""
    return np.array(rows, dtype=np.float32)
