# SPDX-License-Identifier: Apache-2.0
"""What tests of tracks are driven with: music, references, LoRA files, and an engine that is fed and stepped."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file

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
