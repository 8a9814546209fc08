# SPDX-License-Identifier: Apache-2.0
"""The loop that all stages of training share: resumable, with averaged weights, a cosine schedule and a loss curve."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.sizes import SIZES
from training.store import DEFAULT_WORK, save_atomically

LOG_EVERY, SAVE_EVERY = 50, 200


class Ema:
    """Exponential moving average of a module's floating-point state, with a short warm-up."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 20))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


@dataclass(frozen=True)
class Plan:
    """How one stage runs. `learning_rate` falls along a cosine to `final_rate` of itself at step `steps`.

    path: the state file; its neighbour `.jsonl` gets a line of mean losses every 50 steps. stop_after: steps of this call.
    identity: what the state was made from, for example an encoder's hash. A state of another identity, or of a run with
    other `steps` or another `learning_rate`, is refused: its first part would have followed another schedule.
    """

    path: Path
    steps: int
    learning_rate: float
    stop_after: int | None = None
    final_rate: float = 0.02
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-3
    average: float = 0.998
    identity: str = ""


def run(
    plan: Plan, trained: nn.Module, losses_of: Callable[[int], Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], int]:
    """Train the parameters that want gradients; `losses_of(step)` gives named losses, of which `total` is minimised.

    Returns the averaged state and how many steps it has had. Raises ValueError for a state file of another identity, or
    of other steps or another learning rate, before anything is changed.
    """
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay)
    ema, first = Ema(trained, plan.average), 0
    if plan.path.exists():
        saved = torch.load(plan.path)
        _check_state(plan, saved)
        trained.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.state, ema.updates, first = saved["ema"], saved["step"], saved["step"]
    last = plan.steps if plan.stop_after is None else min(plan.steps, first + plan.stop_after)
    recent: list[dict[str, float]] = []
    started = time.monotonic()
    for step in range(first, last):
        decay = plan.final_rate + (1 - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * decay * min(1.0, (step + 1) / plan.warmup)
        losses = losses_of(step)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(trained)
        recent.append({name: loss.item() for name, loss in losses.items()})
        done = step + 1
        if done % LOG_EVERY == 0 or done == last:
            means = {name: float(np.mean([row[name] for row in recent])) for name in recent[0]}
            _report(plan, done, means, (time.monotonic() - started) / (done - first))
            recent.clear()
        if done % SAVE_EVERY == 0 or done == last:
            state: dict[str, Any] = {
                "model": trained.state_dict(),
                "ema": ema.state,
                "optimizer": optimizer.state_dict(),
                "step": done,
                "identity": plan.identity,
                "steps": plan.steps,
                "learning_rate": plan.learning_rate,
            }
            save_atomically(state, plan.path)
    return ema.state, max(first, last)


def _check_state(plan: Plan, saved: Mapping[str, Any]) -> None:
    if saved["identity"] != plan.identity:
        raise ValueError(
            f"{plan.path} was made from {saved['identity'] or 'something unknown'}, not from {plan.identity}:"
            f" move it away first"
        )
    if (saved["steps"], saved["learning_rate"]) != (plan.steps, plan.learning_rate):
        raise ValueError(
            f"{plan.path} was planned with {saved['steps']} steps at a learning rate of {saved['learning_rate']:g}, not"
            f" {plan.steps} at {plan.learning_rate:g}: repeat those, or move it away first"
        )


def _report(plan: Plan, done: int, means: dict[str, float], pace_s: float) -> None:
    shown = " ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(f"{plan.path.stem} {done}/{plan.steps} {shown} {pace_s:.2f} s/step", flush=True)
    plan.path.parent.mkdir(parents=True, exist_ok=True)
    with plan.path.with_suffix(".jsonl").open("a") as curve:
        curve.write(json.dumps({"step": done, **means}) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every stage has."""
    parser.add_argument("--steps", type=int, help="length of the stage; sets the learning-rate decay")
    parser.add_argument("--learning-rate", type=float, help="its highest, after the warm-up")
    parser.add_argument("--stop-after", type=int, help="do at most this many steps now, resume later")
    parser.add_argument("--size", choices=tuple(SIZES), default="embedded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)


def run_stage_command(
    description: str | None, stages: Iterable[str], train: Callable[[str, argparse.Namespace], None]
) -> None:
    """The command line of a program that trains one of several stages: `train(stage, arguments)`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(stages))
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.stage, arguments)
