# SPDX-License-Identifier: Apache-2.0
"""The first call of an elementary function has the bits of all later ones, in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine_server.vector_math import FUNCTIONS

ROOT = Path(__file__).parents[2]
PROCESSES = 400
"""Without `choose_kernels` up to two in a hundred differ (32 threads on 2 cores), in some runs none."""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_first_calls_have_the_bits_of_later_ones():
    command = [sys.executable, "-m", "tests.first_calls", "exp", "log", "sin", "cos", "tanh", "--threads", "32",
               "--processes", str(PROCESSES), "--chosen"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"0 of {PROCESSES} differ\n"


@pytest.mark.parametrize("package", ["engine_server.model", "engine_server.diffusion"])
def test_what_computes_has_called_every_function_with_few_values_once_it_is_imported(package):
    """Too few for a second thread to share the call: this fails, always, where the choice is not made."""
    script = f"""
import torch
names, called = {FUNCTIONS!r}, {{}}

def counted(name, function):
    return lambda values: called.setdefault((name, values.dtype), values.numel()) and function(values)

for name in names:
    setattr(torch, name, counted(name, getattr(torch, name)))
import {package}
assert set(called) == {{(name, kind) for name in names for kind in (torch.float32, torch.float64)}}
assert max(called.values()) <= 64
"""
    subprocess.run([sys.executable, "-c", script], timeout=300, check=True)
