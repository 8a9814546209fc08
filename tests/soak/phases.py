# SPDX-License-Identifier: Apache-2.0
"""Phases: scenario after scenario on one server until enough faults have struck, then a look at what stayed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.soak.leaks import check_flat, check_forgotten
from tests.soak.plans import TIMEOUT_S, Plan, make_plan
from tests.soak.scenarios import Outcome, Stage, run_plan
from tests.soak.servers import Held
from tests.soak.verdicts import ViolationError

COUNTED = {"kills": ("kill",), "clients": ("kill client",), "workers": ("kill worker",)}
"""The faults that a phase counts; in the network's, all."""


@dataclass
class PhaseReport:
    """What a phase brought."""

    phase: str
    outcomes: list[Outcome] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Of the phase as a whole."""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def strikes(self) -> Counter[str]:
        return Counter(strike.kind for outcome in self.outcomes for strike in outcome.strikes)

    @property
    def reconnections(self) -> list[float]:
        """Sorted, in seconds."""
        return sorted(s.reconnect_s for outcome in self.outcomes for s in outcome.strikes if s.reconnect_s is not None)

    @property
    def all_violations(self) -> list[str]:
        return [
            *(f"{outcome.name}: {text}" for outcome in self.outcomes for text in outcome.violations),
            *(f"{self.phase}: {text}" for text in self.violations),
        ]

    def counted(self) -> int:
        """The faults that count towards the phase's number."""
        kinds = COUNTED.get(self.phase)
        return sum(count for kind, count in self.strikes.items() if kinds is None or kind in kinds)


def run_phase(
    phase: str,
    stage: Stage,
    *,
    seed: int,
    faults: int,
    numbers: Iterable[int],
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> PhaseReport:
    """Scenarios by their numbers until so many faults have struck. The stage's server must serve."""
    report = PhaseReport(phase)
    try:
        check_calm(stage)
    except ViolationError as violation:
        report.violations.append(str(violation))
        return report
    ports = 2 if stage.server.has_audio_port() else 1
    for number in numbers:
        if report.counted() >= faults:
            break
        outcome = run_plan(make_plan(seed, phase, number, ports=ports), stage)
        report.outcomes.append(outcome)
        tell(outcome)
    _look_back(report, stage)
    return report


def check_calm(stage: Stage) -> None:
    """An undisturbed bounce must be right, or nothing that follows means anything. Raises ViolationError."""
    outcome = run_plan(Plan("calm", 0, "dawdreamer", steps=4, block=512, timeout_s=TIMEOUT_S, faults=()), stage)
    if outcome.violations:
        raise ViolationError(f"without any fault: {outcome.violations}")


def check_lives(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Figures of the gateway that lived longest, each of which must hold no more than before after engines have died.

    Raises ViolationError.
    """
    lives: dict[int, list[Held]] = {}
    for outcome in outcomes:
        if outcome.held:
            lives.setdefault(outcome.life, []).append(outcome.held)
    figures = [check_flat(held, warm_up=1) for held in sorted(lives.values(), key=len)]
    return figures[-1] if figures else {}


def _look_back(report: PhaseReport, stage: Stage) -> None:
    """Once all hosts have gone: is everything forgotten, and nothing larger than before?"""
    try:
        report.figures["forgotten_s"] = check_forgotten(stage.server)
        if report.phase == "workers":
            report.figures |= check_lives(report.outcomes)
        elif report.phase != "kills":  # where every server has been young
            time.sleep(1.0)
            held = [outcome.held for outcome in report.outcomes if outcome.held]
            report.figures |= check_flat([*held, stage.server.held()])
    except ViolationError as violation:
        report.violations.append(str(violation))
    report.violations += [f"the engine complains: {line}" for line in stage.server.complaints()]
