# SPDX-License-Identifier: Apache-2.0
"""Writes the checkpoint folder in diffusers' ACE-Step layout, weights in float16.

    python -m training.export --codec decoder --work DIR

Without `dit.pt` in the work folder the diffusion weights are random: the layout is final, the sound is not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import encoder_hash, load_codec, load_latents
from training.modules import DiffusionModules, build_diffusion_modules, encode_silence
from training.store import DEFAULT_WORK, EMBEDDED

DEMON = {
    "cover_context": "raw",
    "steps": 8,
    "shift": 3.0,
    "condition_tokens": 96,
    "geometry": {"hop": 20, "past": 100, "lookahead": 20, "crossfade": 6},
}
SIZE_LIMIT_MB = 30.0


def model_index(modules: DiffusionModules) -> dict:
    """The table from component to class that diffusers' loaders read."""
    return {
        "_class_name": "AceStepPipeline",
        "_diffusers_version": diffusers.__version__,
        "audio_token_detokenizer": [None, None],
        "audio_tokenizer": [None, None],
        "condition_encoder": ["ace_step", "AceStepConditionEncoder"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", type(modules.tokenizer).__name__],
        "transformer": ["diffusers", "AceStepTransformer1DModel"],
        "vae": ["engine_server.model.spectral_codec", "SpectralCodec"],
    }


def write(codec: SpectralCodec, modules: DiffusionModules, target: Path, shift: float) -> None:
    """Save every component; the modules are cast to float16 in place."""
    target.mkdir(parents=True, exist_ok=True)
    codec.half().save_pretrained(target / "vae")
    modules.transformer.half().save_pretrained(target / "transformer")
    modules.condition_encoder.half().save_pretrained(target / "condition_encoder")
    modules.text_encoder.half().save_pretrained(target / "text_encoder")
    modules.tokenizer.save_pretrained(target / "tokenizer")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0).save_pretrained(target / "scheduler")
    (target / "model_index.json").write_text(json.dumps(model_index(modules), indent=2) + "\n")
    (target / "demon.json").write_text(json.dumps(DEMON | {"shift": shift}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="decoder", help="which codec_<stage>.pt to ship")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--target", type=Path, default=EMBEDDED)
    parser.add_argument("--shift", type=float, default=DEMON["shift"], help="schedule shift written to demon.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    codec = load_codec(args.work / f"codec_{args.codec}.pt")
    dit_path = args.work / "dit.pt"
    if dit_path.exists():
        load_latents(codec, args.work)
        modules = build_diffusion_modules(encode_silence(codec))
        saved = torch.load(dit_path)
        if saved["encoder_hash"] != encoder_hash(codec):
            raise ValueError("dit.pt was trained on another encoder's latents")
        modules.trained.load_state_dict(saved["ema"])
    else:
        modules = build_diffusion_modules(encode_silence(codec))
    write(codec, modules, args.target, args.shift)
    size_mb = sum(path.stat().st_size for path in args.target.rglob("*") if path.is_file()) / 1e6
    print(f"{args.target}: {size_mb:.1f} MB")
    if size_mb > SIZE_LIMIT_MB:
        raise SystemExit(f"the checkpoint exceeds {SIZE_LIMIT_MB} MB")


if __name__ == "__main__":
    main()
