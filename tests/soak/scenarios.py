# SPDX-License-Identifier: Apache-2.0
"""One scenario from start to verdict."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from shared_protocol.codec import Floats
from tests.soak.host_runs import (
    BOUNCE_PIECES,
    CLIP_RESULTS,
    COMMIT_PIECES,
    LOOP_PASSES,
    LOOP_PIECE,
    PLAY_PIECES,
    PLAY_S,
    TURN_AT,
    TURNED,
    HostRun,
    start_host,
)
from tests.soak.music import DENOISE, RATE, Music
from tests.soak.plans import FOR_GOOD, Fault, Plan
from tests.soak.proxy import Proxy
from tests.soak.servers import Held, Server
from tests.soak.strikes import RECONNECT_LIMIT_S, Strike, Striker, check_reconnection
from tests.soak.verdicts import ViolationError, judge_bounce, judge_looping, judge_playing

UNDISTURBED_S = {"pedalboard": 60.0, "dawdreamer": 60.0, "commit": 60.0, "playing": PLAY_S + 60.0,
                 "looping": LOOP_PASSES * LOOP_PIECE / RATE + 60.0}  # fmt: skip
"""Generous for two slow cores that others use too: on an idle machine bounces take 8 to 13 s."""
RESTART_S = 60.0
"""More for each where a gateway starts engines."""
RECOVERY_S = 15.0
"""For each fault: to come back, feed again what the engine needs and make again what was in flight."""
QUIET_S = 10.0
"""Within which a server has closed the connections of a host that ended."""
FRESH_PIECES = 1
"""Of the bounce after the death of a client."""


@dataclass
class Outcome:
    """What came of a plan."""

    name: str
    way: str
    verdict: str = ""
    violations: list[str] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    began: float = 0.0
    """Seconds since the epoch, for the logs."""
    seconds: float = 0.0
    budget_s: float = 0.0
    held: Held | None = None
    """By the server once the host had gone; where there are several engines, by the gateway."""
    life: int = 0
    """Of the server then."""

    def as_json(self) -> dict:
        return asdict(self)


@dataclass
class Stage:
    """What scenarios happen on."""

    server: Server
    proxy: Proxy
    music: Music
    folder: Path
    keeps_files: bool = False
    reconnect_limit_s: float = RECONNECT_LIMIT_S


def budget_of(plan: Plan) -> float:
    """Seconds within which the host must have ended, whatever happened: more is a hang."""
    lasting = sum(plan.timeout_s if fault.pause_s == FOR_GOOD else fault.pause_s for fault in plan.faults)
    recovery_s = RECOVERY_S + (RESTART_S if plan.phase == "workers" else 0.0)
    return UNDISTURBED_S[plan.way] + lasting + recovery_s * len(plan.faults)


def run_plan(plan: Plan, stage: Stage) -> Outcome:
    """Never raises for what the plugin or the engine does: violations are in the outcome."""
    outcome = Outcome(plan.name, plan.way, began=time.time(), budget_s=budget_of(plan))
    folder = stage.folder / plan.name.replace(":", "-")
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    _attempt(outcome, lambda: _play(plan, stage, outcome, folder / "struck"))
    if plan.phase == "clients":
        fresh = replace(plan, way=plan.way if plan.way in ("pedalboard", "dawdreamer") else "dawdreamer", faults=())
        _attempt(outcome, lambda: _bounce_afresh(fresh, stage, outcome, folder / "fresh"))
    _attempt(outcome, lambda: _check_quiet(stage, outcome))
    outcome.seconds = time.monotonic() - began
    if not outcome.violations and not stage.keeps_files:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _attempt(outcome: Outcome, part) -> None:
    try:
        part()
    except ViolationError as violation:
        outcome.violations.append(str(violation))
    except (RuntimeError, TimeoutError, OSError) as error:
        outcome.violations.append(f"{type(error).__name__}: {error}")


def _play(plan: Plan, stage: Stage, outcome: Outcome, folder: Path) -> None:
    """Run the host, strike it, and judge what it leaves."""
    until = time.monotonic() + outcome.budget_s
    with start_host(plan, stage.proxy.endpoint, folder) as run:
        striker = Striker(stage.server, stage.proxy, run)
        try:
            for fault in plan.faults:
                _strike(fault, striker, run, outcome, until, stage.reconnect_limit_s)
            if not run.wait(until):
                raise ViolationError(
                    f"a hang: the host still ran after {outcome.budget_s:.0f} s, at {run.progress:.0%}"
                )
            calm_s = striker.calm_s(outcome.strikes)
        finally:
            run.close()
            striker.restore()
        if not any(strike.kind == "kill client" for strike in outcome.strikes):
            outcome.verdict = _judge(plan, stage.music, run, calm_s)
        else:
            outcome.verdict = "killed"


def _strike(
    fault: Fault, striker: Striker, run: HostRun, outcome: Outcome, until: float, reconnect_limit_s: float
) -> None:
    if not run.wait_for_progress(fault.at, until) or run.wait(time.monotonic() + fault.delay_s):
        return  # it ended before
    done = striker.strike(fault)
    outcome.strikes.append(done)
    _attempt(outcome, lambda: check_reconnection(done, reconnect_limit_s))


def _judge(plan: Plan, music: Music, run: HostRun, calm_s: float) -> str:
    results = run.results()
    if plan.way == "playing":
        expected = music.reference(PLAY_PIECES, 0)
        return judge_playing(results["result"], expected, run.watch.seen, plan.block, calm_s=calm_s)
    if plan.way == "looping":
        rests = music.rest(LOOP_PIECE, DENOISE), music.rest(LOOP_PIECE, TURNED)
        return judge_looping(results["result"], music.clip(LOOP_PIECE), *rests, turn_at=TURN_AT, calm_s=calm_s)
    if plan.way == "commit":
        return _judge_clip(results, music)
    return judge_bounce(
        results["result"],
        music.reference(BOUNCE_PIECES, plan.steps),
        music.source(BOUNCE_PIECES),
        may_end_dry=plan.may_end_dry,
        receipts=run.receipts(),
    )


def _judge_clip(results: dict[str, Floats], music: Music) -> str:
    source, expected = music.source(COMMIT_PIECES), music.reference(COMMIT_PIECES, 0, is_commit=True)
    capture, *bounces = (results[name] for name in CLIP_RESULTS)
    if not (capture == source).all():
        raise ViolationError("the dry signal did not pass while the clip was captured")
    return "; ".join(judge_bounce(audio, expected, source, may_end_dry=False, receipts=()) for audio in bounces)


def _bounce_afresh(plan: Plan, stage: Stage, outcome: Outcome, folder: Path) -> None:
    """A client that comes after one that was killed."""
    with start_host(plan, stage.proxy.endpoint, folder, pieces=FRESH_PIECES) as run:
        if not run.wait(time.monotonic() + budget_of(plan)):
            raise ViolationError(f"a hang of the client after, at {run.progress:.0%}")
        audio = run.results()["result"]
        outcome.verdict += ", then " + judge_bounce(
            audio,
            stage.music.reference(FRESH_PIECES, plan.steps),
            stage.music.source(FRESH_PIECES),
            may_end_dry=False,
            receipts=(),
        )


def _check_quiet(stage: Stage, outcome: Outcome) -> None:
    """Once no host is there, neither server nor proxy keeps a connection."""
    if not stage.server.is_alive():
        raise ViolationError("the server has ended by itself")
    stage.server.settle()
    deadline = time.monotonic() + QUIET_S
    while (left := stage.server.held().connections) or stage.proxy.open_connections:
        if time.monotonic() > deadline:
            kept = f"{left} of the server, {stage.proxy.open_connections} of the proxy"
            raise ViolationError(f"connections are left without a host: {kept}")
        time.sleep(0.02)
    outcome.held, outcome.life = stage.server.lasting(), stage.server.lives
