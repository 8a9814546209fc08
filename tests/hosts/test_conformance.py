# SPDX-License-Identifier: Apache-2.0
"""The suite of tests/hosts/host, case by case: what a VST3 host may do to a plugin. See README.md here."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from hosts.bounce import BUNDLE, ROOT

SUITE = BUNDLE.parent / "tests" / "hosts" / "host" / "demon_host_tests"
XVFB_RUN = shutil.which("xvfb-run")
TIMEOUT_S = 180


def cases(tag: str) -> list[str]:
    """Names of the suite's cases with a tag; the suite itself says them."""
    if not SUITE.exists():
        return []
    command = [str(SUITE), f"[{tag}]", "--list-tests", "--verbosity", "quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def run(case: str, folder, *, on_display: bool = False) -> None:
    """Run one case in a process of its own."""
    name = case.replace("\\", "\\\\").replace(",", "\\,").replace("[", "\\[")
    command = [*([str(XVFB_RUN), "-a"] if on_display else []), str(SUITE), name]
    environment = os.environ | {"HOST_BUNDLE": str(BUNDLE), "HOME": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_suite_has_been_built():
    assert SUITE.exists(), f"{SUITE} is missing: run `make plugin`"


@pytest.mark.parametrize("case", cases("plugin"))
def test_any_plugin(case, tmp_path):
    run(case, tmp_path)


@pytest.mark.parametrize("case", cases("engine"))
def test_with_an_engine(case, tmp_path):
    run(case, tmp_path)


@pytest.mark.skipif(XVFB_RUN is None, reason="xvfb, the display of these tests, is not installed")
@pytest.mark.parametrize("case", cases("editor"))
def test_editor(case, tmp_path):
    run(case, tmp_path, on_display=True)
