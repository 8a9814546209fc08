# SPDX-License-Identifier: Apache-2.0
"""Python, its packages, and the variables that decide how they compute."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence

from packaging.requirements import Requirement

from engine_server.doctor.finding import Finding, fail, ok, warn

DISTRIBUTION = "demon-bridge"
LOWEST_PYTHON = (3, 11)
STRICT = "STRICT"


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Finding]:
    """The interpreter is new enough."""
    text = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if version[:2] < LOWEST_PYTHON:
        return [fail("python", text, f"install Python {'.'.join(map(str, LOWEST_PYTHON))} or later")]
    return [ok("python", text)]


def check_packages(
    requires: Callable[[str], Sequence[str] | None] = importlib.metadata.requires,
    version: Callable[[str], str] = importlib.metadata.version,
) -> list[Finding]:
    """Every package that the engine needs is there in a version that it was tested with."""
    try:
        lines = requires(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:
        return [warn("packages", f"{DISTRIBUTION} is not installed here", "run: pip install --editable .")]
    needed = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong, found = [], []
    for one in needed:
        try:
            have = version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        found.append(f"{one.name} {have}")
        if not one.specifier.contains(have, prereleases=True):
            wrong.append(f"{one.name} is {have}, not {one.specifier}")
    if wrong:
        return [fail("packages", "; ".join(wrong), "run: pip install --upgrade --editable .")]
    return [ok("packages", ", ".join(found))]


def check_environment(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """MKL rounds rows alike, and OpenMP's threads sleep instead of spinning. The engine sets both unless they are set."""
    findings = []
    rounding = environment.get("MKL_CBWR", "")
    if STRICT in rounding.upper():
        findings.append(ok("rounding", f"MKL_CBWR={rounding}"))
    else:
        findings.append(
            warn(
                "rounding",
                f"MKL_CBWR={rounding or '(not set)'}: on some processors a track's bits then depend on its neighbours",
                "unset MKL_CBWR, and the engine sets AUTO,STRICT",
            )
        )
    spinning = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    wrong = {name: environment.get(name, "") for name, value in spinning.items() if environment.get(name) != value}
    threads = environment.get("OMP_NUM_THREADS") or "as many as there are cores"
    if wrong:
        said = ", ".join(f"{name}={value or '(not set)'}" for name, value in wrong.items())
        advice = "set " + " ".join(f"{name}={value}" for name, value in spinning.items())
        findings.append(warn("threads", f"{said}: spinning threads slow a tick tenfold beside other programs", advice))
    else:
        findings.append(ok("threads", f"OpenMP's threads sleep while they wait; their number: {threads}"))
    return findings
