# SPDX-License-Identifier: Apache-2.0
"""Trains the codec in three stages, each resumable: waveform, then magnitude, then the decoder alone.

    python -m training.train_codec wave --steps 700 --work DIR
    python -m training.train_codec magnitude --steps 1800 --work DIR
    python -m training.train_codec decoder --steps 2000 --work DIR

A stage starts from its predecessor's averaged weights and writes `codec_<stage>.pt`; run again, it resumes. After
`magnitude` the encoder is final, so the latents can be cached while `decoder` still runs.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from training.losses import CodecLoss, figures, kl_divergence
from training.store import DEFAULT_WORK, Ema, Renders, save_atomically

FRAMES = 20  # per training excerpt: 0.8 s
RMS = 0.1  # -20 dBFS, before the random gain
GAIN_DB = (-14.0, 5.0)
LOG_EVERY, SAVE_EVERY = 50, 200


@dataclass(frozen=True)
class Stage:
    """What one stage optimises. `waveform` and `magnitude` weigh the two losses."""

    previous: str | None
    learning_rate: float
    batch: int
    waveform: float
    magnitude: float
    kl: float
    trains_encoder: bool


STAGES = {
    "wave": Stage(None, 1e-3, 6, 1.0, 0.0, 1e-5, True),
    "magnitude": Stage("wave", 8e-4, 6, 0.5, 1.0, 1e-4, True),
    "decoder": Stage("magnitude", 5e-4, 6, 0.5, 1.0, 0.0, False),
}


class Excerpts:
    """Random excerpts, half from the recordings and half from the renders; a function of the step alone."""

    def __init__(self, work: Path, samples: int):
        self.renders = Renders(work)
        self.recordings = np.load(work / "recordings.npy", mmap_mode="r")
        self.samples = samples

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.5:
            start = rng.integers(len(self.recordings) - self.samples)
            return self.recordings[start : start + self.samples]
        audio = self.renders.audio
        start = rng.integers(audio.shape[2] - self.samples)
        piece, take = rng.integers(self.renders.training_pieces), rng.integers(audio.shape[1])
        return audio[piece, take, start : start + self.samples]

    def batch(self, step: int, count: int) -> Tensor:
        """Excerpts of one loudness, give or take GAIN_DB; channels swapped half of the time: [count, 2, S]."""
        rng = np.random.default_rng((step, 20250))
        chosen: list[np.ndarray] = []
        while len(chosen) < count:
            audio = self._draw(rng).astype(np.float32).T / 32768
            level = audio.std()
            if level < 0.003:
                continue
            audio = audio * (RMS / level * 10 ** (rng.uniform(*GAIN_DB) / 20))
            chosen.append((audio[::-1] if rng.random() < 0.5 else audio).clip(-1, 1))
        return torch.from_numpy(np.stack(chosen))


def train(name: str, work: Path, steps: int, stop_after: int | None) -> None:
    """Run one stage to its last step, or `stop_after` of this call's steps."""
    stage = STAGES[name]
    torch.manual_seed(0)
    codec = SpectralCodec()
    if stage.previous:
        codec.load_state_dict(torch.load(work / f"codec_{stage.previous}.pt")["ema"])
    encoder = [p for n, p in codec.named_parameters() if n.startswith("encoder")]
    for parameter in encoder:
        parameter.requires_grad_(stage.trains_encoder)
    trained = [p for p in codec.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, stage.learning_rate, betas=(0.8, 0.99), weight_decay=1e-3)
    ema, first = Ema(codec, 0.995), 0
    path = work / f"codec_{name}.pt"
    if path.exists():
        saved = torch.load(path)
        codec.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.state, ema.updates, first = saved["ema"], saved["step"], saved["step"]
    last = min(steps, first + stop_after) if stop_after else steps
    learned = slice(codec.config.waveform_channels, None)
    data = Excerpts(work, FRAMES * codec.hop)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(first, last):
        decay = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * decay * min(1.0, (step + 1) / 50)
        audio = data.batch(step, stage.batch)
        mean, log_variance = codec.moments(audio)
        log_variance = log_variance.clamp(-8, 4)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
        decoded = codec.decode_raw(mean + noise * (log_variance / 2).exp())
        pair = CodecLoss(decoded, audio)
        loss = stage.waveform * pair.waveform_led()
        if stage.magnitude:
            loss = loss + stage.magnitude * pair.magnitude_led()
        (loss + stage.kl * kl_divergence(mean[..., learned], log_variance[..., learned])).backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(codec)
        losses.append(loss.item())
        done = step + 1
        if done % LOG_EVERY == 0:
            shown = " ".join(f"{key} {value:.2f}" for key, value in figures(decoded, audio).items())
            pace = (time.monotonic() - started) / (done - first)
            average = np.mean(losses[-LOG_EVERY:])
            print(f"{name} {done}/{steps} loss {average:.3f} {shown} {pace:.2f} s/step", flush=True)
        if done % SAVE_EVERY == 0 or done == last:
            state = {"model": codec.state_dict(), "ema": ema.state, "optimizer": optimizer.state_dict(), "step": done}
            save_atomically(state, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("--steps", type=int, required=True, help="length of the stage; sets the learning-rate decay")
    parser.add_argument("--stop-after", type=int, help="do at most this many steps now, resume later")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.stage, args.work, args.steps, args.stop_after)


if __name__ == "__main__":
    main()
