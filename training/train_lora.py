# SPDX-License-Identifier: Apache-2.0
"""Trains the small LoRAs that ship with the engine, on top of the finished transformer, and writes them as diffusers does.

    python -m training.train_lora lofi choir chip --work DIR

The transformer stays as it is; beside each Linear of its layers a pair of rank 8 is trained, by the engine's own forward, to
the targets of `training.styles`. Writes `<size>/lora_<name>.pt`, from which it resumes, and at the last step
`<name>.safetensors` in the target folder, float16.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine_server.model.dit import DitForward
from engine_server.model.lora import AdapterBank, Pair, linear_shapes
from engine_server.model.lora_config import EMBEDDED_CONFIG
from engine_server.model.lora_library import SHIPPED
from training.cache_latents import Latents, load_codec, load_latents
from training.loop import Plan, add_arguments, run
from training.modules import DiffusionModules, build_diffusion_modules, encode_silence
from training.renders import Renders
from training.sampler import FRAMES
from training.sizes import SIZES
from training.store import state_path
from training.style_sampler import StyleSampler
from training.styles import STYLES, load_style
from training.train_dit import load_diffusion, told_conditions, velocity_loss

RANK = 8
TARGETS = re.compile(r"layers\.\d+\.(?:(?:self|cross)_attn\.to_(?:q|k|v|out\.0)|mlp\.(?:gate|up|down)_proj)")
BATCH = 12
STEPS = 300
LEARNING_RATE = 2e-3
WARMUP = 30
FIRST_BATCH = 20_000_000  # none of the transformer's own
DESCRIPTIONS = {
    "lofi": "A worn record: narrow band, wow and flutter, crackle. Keeps the instruments that the prompt names.",
    "choir": "Voices in a long hall, whatever the prompt names; no drums.",
    "chip": "A sound chip of the 1980s, whatever the prompt names: pulse waves, a triangle bass, noise for drums.",
}


class LoraPairs(nn.Module):
    """A trainable pair for each Linear of these shapes; before training it changes nothing."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]]):
        super().__init__()
        self.names = list(shapes)
        self.down = nn.ParameterList([torch.empty(RANK, inside) for _, inside in shapes.values()])
        self.up = nn.ParameterList([torch.zeros(outside, RANK) for outside, _ in shapes.values()])
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def factors(self) -> dict[str, Pair]:
        """The parameters themselves, `(down [r, in], up [out, r])` by the Linear's module path; alpha is the rank."""
        return dict(zip(self.names, zip(self.down, self.up, strict=True), strict=True))


def build_pairs(transformer: nn.Module) -> LoraPairs:
    """Untrained pairs for all attention and MLP Linears, from torch's current seed."""
    return LoraPairs({name: shape for name, shape in linear_shapes(transformer).items() if TARGETS.fullmatch(name)})


@dataclass(frozen=True)
class Base:
    """What all LoRAs of a checkpoint are trained on; nothing of it changes."""

    modules: DiffusionModules
    latents: Latents
    renders: Renders
    silence: Tensor
    identity: str
    """Of the weights, and of the encoder whose latents they know."""


def load_base(work: Path, size: str, stage: str) -> Base:
    """The averaged weights of a stage of `train_dit`."""
    codec = load_codec(work, size, "codec")
    latents = load_latents(codec, work, size)
    silence = encode_silence(codec)
    modules = build_diffusion_modules(silence, SIZES[size])
    identity = load_diffusion(modules, work, size, stage, latents.identity)
    modules.trained.eval().requires_grad_(False)
    return Base(modules, latents, Renders(work), silence, identity)


def train(name: str, base: Base, arguments: argparse.Namespace) -> None:
    """Train one LoRA to its last step, or `stop_after` of this call's steps; at the last step write its file."""
    work, size = arguments.work, arguments.size
    steps = STEPS if arguments.steps is None else arguments.steps
    torch.manual_seed(0)
    modules, pairs = base.modules, build_pairs(base.modules.transformer)
    bank = AdapterBank()
    bank.add(pairs.factors())  # the bank keeps the very tensors that the optimiser changes
    forward, strengths = DitForward(modules.transformer, bank), torch.ones(BATCH, 1)
    style = load_style(name, work, size, base.latents.identity)
    sampler = StyleSampler(base.latents, base.renders, style, base.silence)

    def losses_of(step: int) -> dict[str, Tensor]:
        batch = sampler.batch(step + FIRST_BATCH, (FRAMES, BATCH))
        with torch.no_grad():
            states, mask = told_conditions(modules, batch)
        return {"total": velocity_loss(forward, batch, states, mask, strengths).mean()}

    plan = Plan(
        state_path(work, size, f"lora_{name}"),
        steps,
        LEARNING_RATE if arguments.learning_rate is None else arguments.learning_rate,
        arguments.stop_after,
        warmup=WARMUP,
        weight_decay=0.0,
        identity=base.identity,
    )
    averaged, done = run(plan, pairs, losses_of)
    pairs.load_state_dict(averaged)
    if done >= steps:
        write(name, pairs, arguments.target, size)


def write(name: str, pairs: LoraPairs, folder: Path, base_model: str) -> Path:
    """The pairs as `<name>.safetensors` in float16, with diffusers' keys and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"transformer.{module}.{factor}.weight": tensor.detach().half().contiguous()
        for module, pair in pairs.factors().items()
        for factor, tensor in zip(("lora_A", "lora_B"), pair, strict=True)
    }
    settings = {"transformer.r": RANK, "transformer.lora_alpha": RANK, "transformer.target_modules": pairs.names}
    metadata = {
        EMBEDDED_CONFIG: json.dumps(settings),
        "base_model": base_model,
        "description": DESCRIPTIONS[name],
        "license": "Apache-2.0",
    }
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)  # safetensors leaves it readable by its owner only
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="LORA", help=f"of {', '.join(STYLES)}; all by default")
    add_arguments(parser)
    parser.add_argument("--dit", default="finish", help="which dit_<stage>.pt to train on")
    parser.add_argument("--target", type=Path, default=SHIPPED, help="folder of the finished files")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(STYLES):
        parser.error(f"unknown LoRA {', '.join(sorted(unknown))}")
    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.work, arguments.size, arguments.dit)
    for name in arguments.names or STYLES:
        train(name, base, arguments)


if __name__ == "__main__":
    main()
