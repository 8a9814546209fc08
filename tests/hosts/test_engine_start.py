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


def start_with_this_program(model):
    command = [sys.executable, "-m", "engine_server.cli", "serve", "--until-stdin-closes"]
    command += ["--model", str(model), "--endpoint", "tcp://127.0.0.1:*"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, **pipes)


def test_the_engine_ends_with_the_program_that_started_it(trained_folder):
    with start_with_this_program(trained_folder) as process:
        assert process.stdout.readline().startswith("serving tcp://127.0.0.1:")
        process.stdin.close()
        assert process.wait(30) == 0
        stages = [line.split(" % ") for line in process.stderr.read().splitlines() if " % " in line]
    assert [text for _, text in stages] == ["loading the libraries", f"loading {trained_folder}", "warming up"]
    percents = [int(number) for number, _ in stages]
    assert percents == sorted(percents)
    assert 0 < percents[0] < percents[-1] < 100


def test_an_engine_that_still_loads_ends_too(trained_folder):
    with start_with_this_program(trained_folder) as process:
        assert process.stderr.readline().endswith(" % loading the libraries\n")
        process.stdin.close()
        assert process.wait(30) != 0
        assert process.stdout.read() == ""
