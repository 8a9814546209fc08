# SPDX-License-Identifier: Apache-2.0
"""`demon doctor`, whole: which checks, and how they are shown."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.text import Text

from engine_server.device_name import AUTO
from engine_server.doctor.engine import check_engine
from engine_server.doctor.finding import Check, Finding, Status, run_checks
from engine_server.doctor.keys import check_keys
from engine_server.doctor.plugin import check_plugin
from engine_server.doctor.ports import check_ports
from engine_server.doctor.software import check_environment, check_packages, check_python
from engine_server.doctor.system import check_disk, check_limits
from engine_server.folders import data_folder
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.model.auto_backend import Ground

COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


def all_checks(
    model: str,
    endpoint: str,
    *,
    device: str = AUTO,
    loras: Sequence[Path] = (),
    quick: bool = False,
    measures: bool = False,
) -> list[tuple[str, Check]]:
    """Every check with its name, quick ones first. device: of the engine. quick: leave out what takes seconds.

    measures: measure all backends, and keep that for `auto`.
    """
    folders = [data_folder() / "loras", *loras]

    @functools.cache
    def ground() -> Ground:
        from engine_server.doctor.backend import look_at

        return look_at(model, device, folders)

    def backend_check() -> Sequence[Finding]:
        from engine_server.doctor.backend import check_backend, check_tensorrt

        with contextlib.suppress(DemonError):  # which the checkpoint's own line tells
            return [*check_tensorrt(ground()), *check_backend(ground(), measures=measures)]
        return []

    def model_check() -> Sequence[Finding]:
        from engine_server.doctor.backend import load
        from engine_server.doctor.model import check_model

        return check_model(model, folders, device=device, quick=quick, load=lambda: load(ground()))

    def gpu_check() -> Sequence[Finding]:
        from engine_server.doctor.gpu import check_gpu

        return check_gpu()

    checks: list[tuple[str, Check]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("environment", check_environment),
        ("limits", check_limits),
        ("disk", check_disk),
        ("ports", lambda: check_ports(endpoint)),
        ("engine", lambda: check_engine(endpoint)),
        ("keys", lambda: check_keys(endpoint)),
        ("plugin", check_plugin),
    ]
    if not quick:
        checks += [("gpu", gpu_check), ("backend", backend_check)]
    return [*checks, ("checkpoint", model_check)]


def examine(checks: Sequence[tuple[str, Check]], *, as_json: bool) -> bool:
    """Run checks and print what they find, a line each, or all as JSON on standard output. Whether nothing failed."""
    findings: Iterable[Finding] = run_checks(checks)
    if as_json:
        findings = list(findings)
        healthy = all(finding.status is not Status.FAIL for finding in findings)
        report = {"ok": healthy, "findings": findings}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return healthy
    console, worst = Console(), Status.OK
    for finding in findings:
        console.print(_line(finding), soft_wrap=True)
        worst = max(worst, finding.status, key=list(Status).index)
    return worst is not Status.FAIL


def _line(finding: Finding) -> Text:
    line = Text.assemble((f"{finding.status:4}", COLOURS[finding.status]), f"  {finding.check:<10}  {finding.detail}")
    if finding.advice:
        line.append(f" -> {finding.advice}", "bold")
    return line
