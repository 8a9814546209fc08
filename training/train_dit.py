# SPDX-License-Identifier: Apache-2.0
"""Trains text encoder, condition encoder and transformer by flow matching on aligned latents, then finishes them.

    python -m training.train_dit flow --work DIR
    python -m training.train_dit finish --work DIR

x_t = (1 - t) * x0 + t * noise, target v = noise - x0, context = [source latents 64 | mask 64]. Source and target are
the same notes on different instruments, and the prompt names the target's. `finish` teaches the model to say at once
what guidance of its own earlier self would say (guidance distillation, Meng et al. 2023), so that a prompt is obeyed
at the cost of one forward per step. Writes `<size>/dit_<stage>.pt`; run again, a stage resumes.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor

from engine_server.model.dit import DitForward
from training.cache_latents import cached_training_pieces, load_codec, load_latents
from training.conditions import encode_conditions
from training.loop import Plan, run, run_stage_command
from training.modules import DiffusionModules, build_diffusion_modules, encode_silence
from training.renders import Renders
from training.sampler import Batch, PairSampler
from training.sizes import SIZES
from training.store import hash_tensors, state_path

STEPS = {"flow": 8000, "finish": 300}
LEARNING_RATE = {"flow": 1e-3, "finish": 3e-4}
FINISH_GUIDANCE = 4.0
FINISH_OFFSET = 10_000_000  # batches of the finish come after all of the flow's


def noisy_input(batch: Batch) -> tuple[Tensor, Tensor]:
    """The state x_t and the context that the transformer sees: [B, T, 64], [B, T, 128]."""
    t = batch.t[:, None, None]
    noisy = (1 - t) * batch.clean + t * batch.noise
    return noisy, torch.cat([batch.source, batch.mask.expand_as(batch.source)], dim=-1)


def told_conditions(modules: DiffusionModules, batch: Batch) -> tuple[Tensor, Tensor]:
    """States [B, L, D] and key mask [B, L] of the rows' prompts, the null embedding where a row has none."""
    states, mask = encode_conditions(modules, batch.prompts)
    return torch.where(batch.is_null[:, None, None], modules.condition_encoder.null_condition_emb, states), mask


def velocity_loss(
    forward: DitForward, batch: Batch, states: Tensor, mask: Tensor, adapters: Tensor | None = None
) -> Tensor:
    """Squared velocity error of each row: [B]. adapters: strengths [B, A], None for no adapters."""
    noisy, context = noisy_input(batch)
    velocity = forward(noisy, batch.t, context, forward.encode(states, mask, adapters), adapters)
    return (velocity - (batch.noise - batch.clean)).square().mean(dim=(1, 2))


class Teacher:
    """A frozen copy of the modules that answers with guidance."""

    def __init__(self, modules: DiffusionModules, guidance: float):
        self._modules = copy.deepcopy(modules)
        self._modules.trained.eval().requires_grad_(False)
        self._forward = DitForward(self._modules.transformer)
        self._guidance = guidance

    @torch.no_grad()
    def velocity(self, batch: Batch) -> Tensor:
        """The guided velocity of each row, and v_null for rows without a prompt: [B, T, 64].

        v_prompt + (guidance - 1) * d, where d is the part of v_prompt - v_null that is orthogonal to v_prompt (adaptive
        projected guidance, Sadat et al. 2024), brought back to v_prompt's level: the rest would make covers louder.
        """
        noisy, context = noisy_input(batch)
        states, mask = encode_conditions(self._modules, batch.prompts)
        null = self._modules.condition_encoder.null_condition_emb.expand_as(states)
        told = self._forward(noisy, batch.t, context, self._forward.encode(states, mask))
        untold = self._forward(noisy, batch.t, context, self._forward.encode(null, mask))
        guided = told + (self._guidance - 1) * _orthogonal(told - untold, told)
        guided = guided * (_level(told) / _level(guided))
        return torch.where(batch.is_null[:, None, None], untold, guided)


def _orthogonal(x: Tensor, to: Tensor) -> Tensor:
    """The part of each row of `x` that is orthogonal to that of `to`: [B, T, 64]."""
    along = (x * to).sum((1, 2), keepdim=True) / to.square().sum((1, 2), keepdim=True)
    return x - along * to


def _level(x: Tensor) -> Tensor:
    """Root mean square of each row: [B, 1, 1]."""
    return x.square().mean((1, 2), keepdim=True).sqrt()


def train(name: str, arguments: argparse.Namespace) -> None:
    """Run one stage to its last step, or `stop_after` of this call's steps."""
    work, size = arguments.work, arguments.size
    torch.manual_seed(0)
    codec = load_codec(work, size, "codec")
    latents = load_latents(codec, work, size)
    silence = encode_silence(codec)
    modules = build_diffusion_modules(silence, SIZES[size])
    renders = Renders(work)
    sampler = PairSampler(latents, renders, cached_training_pieces(latents, renders), silence)
    forward, trained = DitForward(modules.transformer), modules.trained.train()
    identity, teacher = latents.identity, None
    if name == "finish":
        identity = load_diffusion(modules, work, size, "flow", latents.identity)
        teacher = Teacher(modules, FINISH_GUIDANCE)
    elif state_path(work, size, "dit_start").exists():  # training.adopt
        identity = load_diffusion(modules, work, size, "start", latents.identity)

    def losses_of(step: int) -> dict[str, Tensor]:
        batch = sampler.batch(step + (FINISH_OFFSET if teacher else 0))
        states, mask = told_conditions(modules, batch)
        if teacher is None:
            return {"total": velocity_loss(forward, batch, states, mask).mean()}
        noisy, context = noisy_input(batch)
        velocity = forward(noisy, batch.t, context, forward.encode(states, mask))
        return {"total": (velocity - teacher.velocity(batch)).square().mean()}

    plan = Plan(
        state_path(work, size, f"dit_{name}"),
        STEPS[name] if arguments.steps is None else arguments.steps,
        LEARNING_RATE[name] if arguments.learning_rate is None else arguments.learning_rate,
        arguments.stop_after,
        weight_decay=0.01,
        identity=identity,
    )
    run(plan, trained, losses_of)


def load_diffusion(modules: DiffusionModules, work: Path, size: str, stage: str, latents: str) -> str:
    """Set the modules to a stage's averaged weights, and return the identity of what is trained on top of them.

    That is `latents`, the identity of the latents that they know, and a hash of the weights.
    Raises FileNotFoundError before the stage is trained, ValueError if it was on other latents.
    """
    path = state_path(work, size, f"dit_{stage}")
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run training.train_dit {stage} first")
    saved = torch.load(path)
    if str(saved["identity"]).partition(" ")[0] != latents:
        raise ValueError(f"{path} was trained on other latents")
    modules.trained.load_state_dict(saved["ema"])
    return f"{latents} {hash_tensors(saved['ema'])}"


if __name__ == "__main__":
    run_stage_command(__doc__, STEPS, train)
