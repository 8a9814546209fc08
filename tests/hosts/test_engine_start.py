# SPDX-License-Identifier: Apache-2.0
"""The plugin's launcher with the real `demon` command, and that command's side of the agreement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hosts.bounce import BUNDLE

LAUNCHER_TESTS = BUNDLE.parent / "tests/cpp/demon_services_tests"
DEMON = Path(sys.executable).parent / "demon"


def test_the_launcher_starts_the_real_engine_and_ends_it(trained_folder, tmp_path):
    environment = os.environ | {
        "DEMON_COMMAND": str(DEMON),
        "DEMON_TEST_MODEL": str(trained_folder),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [LAUNCHER_TESTS, "[.engine]"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 test case" in done.stdout


def test_the_engine_ends_with_the_program_that_started_it(trained_folder):
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--until-stdin-closes"]
    process = subprocess.Popen(
        [*command, "--model", str(trained_folder), "--endpoint", "tcp://127.0.0.1:*"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline().startswith("serving tcp://127.0.0.1:")
        process.stdin.close()
        assert process.wait(30) == 0
        stages = [line.split(" % ") for line in process.stderr.read().splitlines() if " % " in line]
    assert [text for _, text in stages] == ["loading the libraries", f"loading {trained_folder}", "warming up"]
    percents = [int(number) for number, _ in stages]
    assert percents == sorted(percents)
    assert 0 < percents[0] < percents[-1] < 100


def test_an_engine_that_still_loads_ends_too(trained_folder):
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--until-stdin-closes"]
    process = subprocess.Popen(
        [*command, "--model", str(trained_folder), "--endpoint", "tcp://127.0.0.1:*"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr.readline().endswith(" % loading the libraries\n")
        process.stdin.close()
        assert process.wait(30) != 0
        assert process.stdout.read() == ""
