# SPDX-License-Identifier: Apache-2.0
"""Encodes all training audio once and measures the latents' statistics.

    python -m training.cache_latents --stage magnitude --work DIR

Writes `latents.pt`: normalised float16 latents of the renders [piece, take, frame, 64] and of the recordings
[frame, 64], the per-channel `mean` and `std`, and the hash of the encoder that made them. Readers assert the hash, and
re-encode a sample: a cache made by another encoder trains a model that no decoder understands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from training.store import DEFAULT_WORK, Renders, hash_tensors, save_atomically

RMS = 0.1
PIECE_GAIN_DB = (-8.0, 3.0)
RECORDING_CHUNK_FRAMES = 1500
REENCODE_TOLERANCE = 2e-3  # relative; float16 storage


def load_codec(path: Path) -> SpectralCodec:
    """The averaged weights of a stage's state file."""
    codec = SpectralCodec()
    codec.load_state_dict(torch.load(path)["ema"])
    return codec.eval()


def encoder_hash(codec: SpectralCodec) -> str:
    """Identifies what determines the raw latents: the encoder's weights."""
    return hash_tensors({n: p for n, p in codec.named_parameters() if n.startswith("encoder")})


def piece_takes(renders: Renders, piece: int) -> Tensor:
    """All takes of a piece, each at the piece's loudness: [take, 2, samples]."""
    audio = torch.from_numpy(renders.audio[piece].astype(np.float32)).transpose(1, 2) / 32768
    gain_db = np.random.default_rng((piece, 7)).uniform(*PIECE_GAIN_DB)
    level = audio.std(dim=(1, 2), keepdim=True).clamp_min(1e-3)
    return (audio * (RMS / level * 10 ** (gain_db / 20))).clamp(-1, 1)


@torch.no_grad()
def cache(codec: SpectralCodec, work: Path) -> None:
    """Encode everything; statistics come from the training pieces and the recordings."""
    renders = Renders(work)
    takes = [codec.moments(piece_takes(renders, piece))[0] for piece in range(len(renders.audio))]
    rendered = torch.stack(takes)
    recordings = np.load(work / "recordings.npy", mmap_mode="r")
    chunk = RECORDING_CHUNK_FRAMES * codec.hop
    parts = []
    for start in range(0, len(recordings) - chunk, chunk):
        audio = torch.from_numpy(recordings[start : start + chunk].astype(np.float32)).T[None] / 32768
        parts.append(codec.moments(audio)[0][0])
    recorded = torch.cat(parts)
    pool = torch.cat([rendered[: renders.training_pieces].flatten(0, 2), recorded])
    mean, std = pool.mean(0), pool.std(0).clamp_min(1e-3)
    state = {
        "encoder_hash": encoder_hash(codec),
        "mean": mean,
        "std": std,
        "rendered": ((rendered - mean) / std).half(),
        "recorded": ((recorded - mean) / std).half(),
    }
    save_atomically(state, work / "latents.pt")
    print(f"latents: renders {tuple(rendered.shape)}, recordings {tuple(recorded.shape)}, hash {state['encoder_hash']}")
    print(f"std before normalisation: {std.min():.3f} to {std.max():.3f}")


@torch.no_grad()
def load_latents(codec: SpectralCodec, work: Path) -> dict[str, Tensor]:
    """The cache, checked against `codec`, whose statistics buffers it sets."""
    state = torch.load(work / "latents.pt")
    if state["encoder_hash"] != encoder_hash(codec):
        raise ValueError("latents.pt was made by another encoder: run training.cache_latents again")
    codec.latent_mean.copy_(state["mean"])
    codec.latent_std.copy_(state["std"])
    fresh = codec.encode(piece_takes(Renders(work), 0)[:1])
    stored = state["rendered"][0, :1].float()
    difference = float((fresh - stored).norm() / fresh.norm())
    if difference > REENCODE_TOLERANCE:
        raise ValueError(f"re-encoding a stored take differs by {difference:.4f}")
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="magnitude", help="which codec_<stage>.pt to encode with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cache(load_codec(args.work / f"codec_{args.stage}.pt"), args.work)


if __name__ == "__main__":
    main()
