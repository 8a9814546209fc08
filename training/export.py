# SPDX-License-Identifier: Apache-2.0
"""Writes the checkpoint folder in diffusers' ACE-Step layout, weights in float16.

    python -m training.export --codec decoder --work DIR
    python -m training.export --size small --codec codec --work DIR --target DIR
    python -m training.export --untrained --work DIR --target DIR

A checkpoint takes the place of the target's only when it is whole and small enough; other files of the target stay. With
`--untrained` the diffusion weights are random: the layout is final, the sound is not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine_server.model.spectral_codec import SpectralCodec
from training.cache_latents import load_codec, load_latents
from training.modules import DiffusionModules, build_diffusion_modules, encode_silence
from training.sizes import SIZES
from training.store import DEFAULT_WORK, EMBEDDED
from training.train_dit import load_diffusion

DEMON = {
    "cover_context": "raw",
    "steps": 8,
    "shift": 3.0,
    "dcw": False,
    "condition_tokens": 96,
    "geometry": {"hop": 20, "past": 100, "lookahead": 20, "crossfade": 6},
}
SIZE_LIMIT_MB = 40.0


def model_index(modules: DiffusionModules) -> dict[str, Any]:
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
    """Save every component into a folder; the modules are cast to float16 in place."""
    codec.half().save_pretrained(target / "vae")
    modules.transformer.half().save_pretrained(target / "transformer")
    modules.condition_encoder.half().save_pretrained(target / "condition_encoder")
    modules.text_encoder.half().save_pretrained(target / "text_encoder")
    modules.tokenizer.save_pretrained(target / "tokenizer")
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    scheduler.save_pretrained(target / "scheduler")
    (target / "model_index.json").write_text(json.dumps(model_index(modules), indent=2) + "\n")
    (target / "demon.json").write_text(json.dumps(DEMON | {"shift": shift}, indent=2) + "\n")
    for weights in target.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors leaves them readable by their owner only


def publish(codec: SpectralCodec, modules: DiffusionModules, target: Path, shift: float) -> float:
    """`write` beside the target, then put each component in the place of the target's; returns their size in MB.

    Raises ValueError, and leaves the target alone, if they exceed the limit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        made = Path(folder)
        write(codec, modules, made, shift)
        size_mb = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 1e6
        if size_mb > SIZE_LIMIT_MB:
            raise ValueError(f"the checkpoint has {size_mb:.1f} MB, more than {SIZE_LIMIT_MB}")
        target.mkdir(exist_ok=True)
        for component in made.iterdir():
            place = target / component.name
            if place.is_dir():
                shutil.rmtree(place)
            os.replace(component, place)
    return size_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="decoder", help="which codec_<stage>.pt to ship")
    parser.add_argument("--dit", default="finish", help="which dit_<stage>.pt to ship")
    parser.add_argument("--untrained", action="store_true", help="random diffusion weights instead")
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--target", type=Path, default=EMBEDDED)
    parser.add_argument("--shift", type=float, default=DEMON["shift"], help="schedule shift written to demon.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    codec = load_codec(args.work, args.size, args.codec)
    latents = None if args.untrained else load_latents(codec, args.work, args.size)
    modules = build_diffusion_modules(encode_silence(codec), SIZES[args.size])
    if latents:
        load_diffusion(modules, args.work, args.size, args.dit, latents.identity)
    target = args.target.resolve()
    print(f"{target}: {publish(codec, modules, target, args.shift):.1f} MB")


if __name__ == "__main__":
    main()
