# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.soak`: break things at random, check that nothing is lost, and report. Status 1 on any violation.

Every scenario is a function of the seed and its number: `--only kills:17 --seed 3` repeats one.
"""

from __future__ import annotations

import os

# Before torch is imported: spinning threads disturb whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from tests.soak.report import FILE_COLUMNS, as_json, describe, tables

for folder in ("python", "hosts"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))  # the tests' own modules, as pytest finds them


def main() -> None:
    """Run the phases that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Faults at random, and a long soak.")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="SIGKILLs of the server")
    parser.add_argument("--client-kills", type=int, default=0, metavar="N", help="SIGKILLs of host processes")
    parser.add_argument("--network", type=int, default=0, metavar="N", help="faults of the network")
    parser.add_argument("--worker-kills", type=int, default=0, metavar="N", help="SIGKILLs of engines behind a gateway")
    parser.add_argument("--minutes", type=float, default=0.0, help="of tracks that come and go")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="PHASE:NUMBER", help="one scenario: kills:17, workers:3")
    parser.add_argument("--json", type=Path, default=Path("out/soak.json"), help="report (out/soak.json)")
    parser.add_argument("--keep", action="store_true", help="keep the files of scenarios that went well, too")
    given = parser.parse_args()

    from tests.soak.leaks import check_no_files, check_no_processes, mark_run
    from tests.soak.verdicts import ViolationError

    mark = mark_run()
    console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
    began = time.time()
    files = Path(tempfile.mkdtemp(prefix="demon-soak-"))
    (files / "tmp").mkdir()
    report: dict = {"seed": given.seed, "began": began, "files": str(files)}
    console.print(f"seed {given.seed}; logs and files of what goes wrong: {files}")
    report["phases"], report["soak"] = _run(given, files, console)
    violations = [text for phase in report["phases"] for text in phase.all_violations]
    violations += report["soak"].violations if report["soak"] else []
    for check in (lambda: check_no_processes(mark), lambda: check_no_files(files / "tmp")):
        try:
            check()
        except ViolationError as violation:
            violations.append(str(violation))
    report["violations"] = violations
    report["minutes"] = (time.time() - began) / 60
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(as_json(report), indent=1) + "\n")
    for table in tables(report):
        console.print(table)
    for text in violations:
        console.print(f"[red]violation[/red] {text}", highlight=False, markup=True)
    console.print(f"{given.json}; {len(violations)} violations in {report['minutes']:.1f} min")
    sys.exit(1 if violations else 0)


def _run(given: argparse.Namespace, files: Path, console: Console) -> tuple[list, object]:
    """The phases, each with a server and a proxy of its own, and the long soak."""
    from diffusers.utils import logging as diffusers_logging
    from tiny_checkpoint import build_tiny_checkpoint
    from transformers.utils import logging as transformers_logging

    from tests.soak.fleets import FleetServer
    from tests.soak.long_soak import run_long_soak
    from tests.soak.music import Music
    from tests.soak.phases import run_phase
    from tests.soak.proxy import Proxy
    from tests.soak.scenarios import Stage
    from tests.soak.servers import Server
    from tests.soak.starter import Starter

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    model = build_tiny_checkpoint(files / "tiny")
    music = Music(model)
    wanted = {
        "kills": given.kills,
        "clients": given.client_kills,
        "network": given.network,
        "workers": given.worker_kills,
    }
    numbers: dict[str, Iterable[int]] = {phase: itertools.count() for phase in wanted}
    if given.only:
        phase, number = given.only.split(":")
        wanted, numbers = {phase: sys.maxsize}, {phase: [int(number)]}
    kinds: dict[str, type[Server]] = {"workers": FleetServer}
    starter = Starter(files / "tmp")
    reports, soak = [], None
    try:
        for phase, faults in wanted.items():
            if not faults:
                continue
            with (
                kinds.get(phase, Server)(starter, model, files / phase) as server,
                Proxy(server.ports, seed=given.seed) as proxy,
            ):
                stage = Stage(server, proxy, music, files / phase, keeps_files=given.keep)
                reports.append(
                    run_phase(
                        phase,
                        stage,
                        seed=given.seed,
                        faults=faults,
                        numbers=numbers[phase],
                        tell=lambda outcome: console.print(describe(outcome), highlight=False, markup=False),
                    )
                )
        if given.minutes:
            with Server(starter, model, files / "soak") as server:
                soak = run_long_soak(server, music, files / "soak", minutes=given.minutes, seed=given.seed)
    finally:
        starter.close()
    return reports, soak


if __name__ == "__main__":
    main()
