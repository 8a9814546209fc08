# SPDX-License-Identifier: Apache-2.0
"""Trains text encoder, condition encoder and transformer by flow matching on aligned latents; resumable.

    python -m training.train_dit --steps 2000 --work DIR

x_t = (1 - t) * x0 + t * noise, target v = noise - x0, context = [source latents 64 | ones 64]. Source and target are
the same notes on different instruments, and the caption names the target's. Writes `dit.pt`.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.dit import DitForward
from training.cache_latents import load_codec, load_latents
from training.conditions import encode_conditions
from training.instruments import FAMILIES, FAMILY_INDEX
from training.modules import build_diffusion_modules, encode_silence
from training.prompts import as_is_caption, caption_for
from training.store import DEFAULT_WORK, Ema, Renders, save_atomically

FRAMES = 140  # past 100 + hop 20 + lookahead 20
BATCH = 16
LEARNING_RATE = 1e-3
NULL_SHARE = 0.10  # rows whose condition is the learned null embedding
NO_SOURCE_SHARE = 0.07  # rows that hear silence as their source
IDENTITY_SHARE = 0.10  # rows whose target is the source, "as is"
RECORDING_SHARE = 0.5  # of the identity rows: from real recordings
SAME_TAKE_SHARE = 0.05  # rows whose source already has the wanted colour
EDGE_SHARE = 0.10  # rows that begin before the song or end after it
TIME_MEAN, TIME_SPREAD = 0.4, 1.1  # t = sigmoid of this normal
LOG_EVERY, SAVE_EVERY = 50, 200


@dataclass
class Batch:
    """`clean` and `source` are [B, FRAMES, 64]; `is_null` [B] marks rows without a caption."""

    clean: Tensor
    source: Tensor
    captions: list[str]
    is_null: Tensor
    t: Tensor
    noise: Tensor


class PairSampler:
    """Draws training rows from the latent cache; a batch is a function of its step alone."""

    def __init__(self, latents: dict[str, Tensor], families: list[list[str]], pieces: range, silence: Tensor):
        self.rendered, self.recorded = latents["rendered"], latents["recorded"]
        self.families, self.pieces, self.silence = families, pieces, silence

    def _row(self, rng: random.Random) -> tuple[Tensor, Tensor, str]:
        if rng.random() < IDENTITY_SHARE:
            if rng.random() < RECORDING_SHARE:
                start = rng.randrange(len(self.recorded) - FRAMES)
                clean = self.recorded[start : start + FRAMES].float()
            else:
                clean = self._excerpt(rng.choice(self.pieces), rng.randrange(self.rendered.shape[1]), rng)
            return clean, clean, as_is_caption(rng)
        piece = rng.choice(self.pieces)
        target, source = rng.sample(range(self.rendered.shape[1]), 2)
        if rng.random() < SAME_TAKE_SHARE:
            source = target
        start = rng.randrange(self.rendered.shape[2] - FRAMES + 1)
        clean = self.rendered[piece, target, start : start + FRAMES].float()
        heard = self.rendered[piece, source, start : start + FRAMES].float()
        family = FAMILIES[FAMILY_INDEX[self.families[piece][target]]]
        return clean, heard, caption_for(family, rng)

    def _excerpt(self, piece: int, take: int, rng: random.Random) -> Tensor:
        start = rng.randrange(self.rendered.shape[2] - FRAMES + 1)
        return self.rendered[piece, take, start : start + FRAMES].float()

    def batch(self, step: int, count: int = BATCH) -> Batch:
        rng = random.Random(f"demon-batch-{step}")
        generator = torch.Generator().manual_seed(step)
        clean, source, captions = [], [], []
        for _ in range(count):
            target, heard, caption = self._row(rng)
            if rng.random() < NO_SOURCE_SHARE:
                heard = self.silence.expand(FRAMES, -1)
            if rng.random() < EDGE_SHARE:
                outside = torch.arange(FRAMES) < rng.randrange(1, FRAMES)
                outside = outside if rng.random() < 0.5 else outside.flip(0)
                target = torch.where(outside[:, None], self.silence, target)
                heard = torch.where(outside[:, None], self.silence, heard)
            clean.append(target)
            source.append(heard)
            captions.append(caption)
        return Batch(
            torch.stack(clean),
            torch.stack(source),
            captions,
            torch.rand(count, generator=generator) < NULL_SHARE,
            torch.sigmoid(TIME_MEAN + TIME_SPREAD * torch.randn(count, generator=generator)),
            torch.randn(count, FRAMES, clean[0].shape[-1], generator=generator),
        )


def velocity_loss(forward: DitForward, batch: Batch, states: Tensor, mask: Tensor) -> Tensor:
    """Squared velocity error of each row: [B]."""
    t = batch.t[:, None, None]
    noisy = (1 - t) * batch.clean + t * batch.noise
    context = torch.cat([batch.source, torch.ones_like(batch.source)], dim=-1)
    velocity = forward(noisy, batch.t, context, forward.encode(states, mask))
    return (velocity - (batch.noise - batch.clean)).square().mean(dim=(1, 2))


def train(work: Path, steps: int, stage: str, stop_after: int | None) -> None:
    """Run to the last step, or `stop_after` of this call's steps."""
    torch.manual_seed(0)
    codec = load_codec(work / f"codec_{stage}.pt")
    latents = load_latents(codec, work)
    silence = encode_silence(codec)
    modules = build_diffusion_modules(silence)
    renders = Renders(work)
    sampler = PairSampler(latents, renders.families, range(renders.training_pieces), silence)
    forward = DitForward(modules.transformer)
    trained = modules.trained.train()
    optimizer = torch.optim.AdamW(trained.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    ema, first, path = Ema(trained, 0.998), 0, work / "dit.pt"
    if path.exists():
        saved = torch.load(path)
        if saved["encoder_hash"] != latents["encoder_hash"]:
            raise ValueError("dit.pt was trained on another encoder's latents: move it away first")
        trained.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.state, ema.updates, first = saved["ema"], saved["step"], saved["step"]
    last = min(steps, first + stop_after) if stop_after else steps
    losses: list[float] = []
    started = time.monotonic()
    for step in range(first, last):
        decay = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * decay * min(1.0, (step + 1) / 100)
        batch = sampler.batch(step)
        states, mask = encode_conditions(modules, batch.captions)
        states = torch.where(batch.is_null[:, None, None], modules.condition_encoder.null_condition_emb, states)
        loss = velocity_loss(forward, batch, states, mask).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(trained)
        losses.append(loss.item())
        done = step + 1
        if done % LOG_EVERY == 0:
            pace = (time.monotonic() - started) / (done - first)
            print(f"dit {done}/{steps} loss {np.mean(losses[-LOG_EVERY:]):.4f} {pace:.2f} s/step", flush=True)
        if done % SAVE_EVERY == 0 or done == last:
            state = {"model": trained.state_dict(), "ema": ema.state, "optimizer": optimizer.state_dict()}
            save_atomically(state | {"step": done, "encoder_hash": latents["encoder_hash"]}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True, help="length of the run; sets the learning-rate decay")
    parser.add_argument("--stop-after", type=int, help="do at most this many steps now, resume later")
    parser.add_argument("--stage", default="magnitude", help="which codec_<stage>.pt made the latents")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.work, args.steps, args.stage, args.stop_after)


if __name__ == "__main__":
    main()
