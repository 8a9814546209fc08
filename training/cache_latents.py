# SPDX-License-Identifier: Apache-2.0
"""Encodes all training audio once and measures the latents' statistics.

    python -m training.cache_latents --work DIR
    python -m training.cache_latents --pieces 200 --work DIR

Writes `<size>/latents.pt`: normalised float16 latents of the renders [piece, take, frame, 64] and of the recordings
[frame, 64], the per-channel `mean` and `std`, and the hash of the encoder that made them. Readers assert the hash, and
re-encode a sample: a cache made by another encoder trains a model that no decoder understands.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine_server.model.spectral_codec import SpectralCodec
from engine_server.model.windows import plan_windows
from training.renders import Renders, data_hash
from training.sizes import SIZES
from training.store import DEFAULT_WORK, hash_tensors, save_atomically, state_path

RMS = 0.1  # -20 dBFS, before any random gain
PIECE_GAIN_DB = (-8.0, 3.0)
REENCODE_TOLERANCE = 2e-3  # relative; float16 storage
SMALLEST_STD = 1e-3
LOG_EVERY = 100


@dataclass(frozen=True, eq=False)
class Latents:
    """The cache: normalised float16 latents `rendered` [piece, take, frame, 64] and `recorded` [frame, 64].

    `identity`: see `latents_identity`; what is trained on these latents knows no others.
    """

    identity: str
    rendered: Tensor
    recorded: Tensor


def load_codec(work: Path, size: str, stage: str) -> SpectralCodec:
    """The averaged weights of a stage."""
    codec = SpectralCodec(**SIZES[size].codec)
    codec.load_state_dict(torch.load(state_path(work, size, f"codec_{stage}"))["ema"])
    return codec.eval()


def encoder_hash(codec: SpectralCodec) -> str:
    """Identifies what determines the raw latents: the encoder's weights and the features' statistics."""
    return hash_tensors({n: p for n, p in codec.state_dict().items() if n.startswith(("encoder", "feature"))})


def latents_identity(codec: SpectralCodec) -> str:
    """Identifies what determines the normalised latents: the encoder and the latents' statistics, which must be set."""
    statistics = {"latent_mean": codec.latent_mean, "latent_std": codec.latent_std}
    return hash_tensors({"encoder": torch.tensor(list(bytes.fromhex(encoder_hash(codec)))), **statistics})


def piece_takes(renders: Renders, piece: int) -> Tensor:
    """All takes of a piece, each at the piece's loudness: [take, 2, samples], whole frames."""
    return at_piece_level(renders.audio[piece].astype(np.float32) / 32768, renders.pieces[piece].seed)


def at_piece_level(takes: np.ndarray, seed: int) -> Tensor:
    """Takes float32 [take, samples, 2], each at the loudness of the piece of this seed: [take, 2, samples], whole frames."""
    audio = torch.from_numpy(takes).transpose(1, 2)
    gain_db = np.random.default_rng((seed, 7)).uniform(*PIECE_GAIN_DB)
    level = audio.std(dim=(1, 2), keepdim=True).clamp_min(1e-3)
    whole = audio.shape[-1] // SpectralCodec.hop * SpectralCodec.hop
    return (audio * (RMS / level * 10 ** (gain_db / 20))).clamp(-1, 1)[..., :whole]


@torch.no_grad()
def raw_latents(codec: SpectralCodec, audio: Tensor) -> Tensor:
    """The posterior's mean before normalisation: [B, 2, S] -> [B, N, 64]."""
    return codec.moments(codec.features.analyse(audio))[0]


def cache(codec: SpectralCodec, work: Path, size: str, pieces: int | None = None) -> None:
    """Encode everything, or only the first `pieces` training pieces.

    Statistics come from the training pieces among them and the recordings, but for a codec that has its own already
    (`training.adopt`). A cache of as many pieces of the same data by the same encoder is kept.
    """
    renders, path, made_by = Renders(work), state_path(work, size, "latents"), encoder_hash(codec)
    count = len(renders.pieces) if pieces is None else min(pieces, renders.training_pieces)
    if path.exists():
        kept = torch.load(path, mmap=True)
        if (kept["encoder_hash"], kept["data_hash"], len(kept["rendered"])) == (made_by, data_hash(work), count):
            print(f"latents: {path} already holds {count} pieces by encoder {made_by}")
            return
    takes = []
    for piece in range(count):
        takes.append(raw_latents(codec, piece_takes(renders, piece)))
        if (piece + 1) % LOG_EVERY == 0:
            print(f"encoded {piece + 1}/{count} pieces", flush=True)
    rendered = torch.stack(takes)
    recorded = encode_recordings(codec, np.load(work / "recordings.npy", mmap_mode="r"))
    mean, std = codec.latent_mean, codec.latent_std
    if (std == 1).all():
        pool = torch.cat([rendered[: renders.training_pieces].flatten(0, 2), recorded])
        mean, std = pool.mean(0), pool.std(0).clamp_min(SMALLEST_STD)
    state = {
        "encoder_hash": made_by,
        "data_hash": data_hash(work),
        "mean": mean,
        "std": std,
        "rendered": ((rendered - mean) / std).half(),
        "recorded": ((recorded - mean) / std).half(),
    }
    save_atomically(state, path)
    print(f"latents: renders {tuple(rendered.shape)}, recordings {tuple(recorded.shape)}, hash {made_by}")
    print(f"std before normalisation: {std.min():.3f} to {std.max():.3f}")


def encode_recordings(codec: SpectralCodec, recordings: np.ndarray) -> Tensor:
    """Raw latents [frame, 64] of all whole frames of int16 [samples, 2], window by window, equal to those of the whole."""
    frames, parts = len(recordings) // codec.hop, []
    for plan in plan_windows(0, frames, frames, codec.encoder_margin):
        samples = recordings[plan.span.first * codec.hop : plan.span.stop * codec.hop]
        audio = torch.from_numpy(samples.astype(np.float32)).T[None] / 32768
        parts.append(raw_latents(codec, audio)[0, plan.trim_left : plan.trim_left + len(plan.keep)])
    return torch.cat(parts)


@torch.no_grad()
def load_latents(codec: SpectralCodec, work: Path, size: str) -> Latents:
    """The cache, checked against `codec`, whose statistics buffers it sets."""
    state = torch.load(state_path(work, size, "latents"))
    if state["encoder_hash"] != encoder_hash(codec):
        raise ValueError("latents.pt was made by another encoder: run training.cache_latents again")
    if state["data_hash"] != data_hash(work):
        raise ValueError("latents.pt was made of other data: run training.cache_latents again")
    codec.latent_mean.copy_(state["mean"])
    codec.latent_std.copy_(state["std"])
    fresh = codec.encode(piece_takes(Renders(work), 0)[:1])
    stored = state["rendered"][0, :1].float()
    difference = float((fresh - stored).norm() / fresh.norm())
    if difference > REENCODE_TOLERANCE:
        raise ValueError(f"re-encoding a stored take differs by {difference:.4f}")
    return Latents(latents_identity(codec), state["rendered"], state["recorded"])


def cached_training_pieces(latents: Latents, renders: Renders) -> range:
    """The training pieces that `latents` holds, which may be fewer than there are renders."""
    return range(min(renders.training_pieces, len(latents.rendered)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="codec", help="which codec_<stage>.pt to encode with")
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument(
        "--pieces", type=int, help="only this many, from the first; all, the held-out ones too, by default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cache(load_codec(args.work, args.size, args.stage), args.work, args.size, args.pieces)


if __name__ == "__main__":
    main()
