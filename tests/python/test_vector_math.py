# SPDX-License-Identifier: Apache-2.0
"""The first call of an elementary function has the bits of all later ones, in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILDREN = 400
"""Without `choose_kernels` up to two in a hundred differ (32 threads on 2 cores), in some runs none."""

PARENT = f"""
import os
import torch
from engine_server.vector_math import choose_kernels

def first_call_differs(name):
    torch.set_num_threads(32)  # whose first common call is the risk
    CHOOSE
    values, function = torch.linspace(0.01, 0.99, 65_536), getattr(torch, name)
    return not torch.equal(function(values), function(values))

differing = 0
for number in range({CHILDREN}):
    child = os.fork()  # before anything is computed, so that each has its own first calls
    if child == 0:
        os._exit(first_call_differs(("exp", "log", "sin", "cos", "tanh")[number % 5]))
    differing += os.waitpid(child, 0)[1] != 0
print(differing)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_first_calls_have_the_bits_of_later_ones():
    script = PARENT.replace("CHOOSE", "choose_kernels()")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) == 0


@pytest.mark.parametrize("package", ["engine_server.model", "engine_server.diffusion"])
def test_what_computes_chooses_its_kernels_when_it_is_imported(package):
    script = f"""
import torch
called = []
torch.cos = lambda values, plain=torch.cos: called.append(len(values)) or plain(values)
import {package}
assert called and max(called) < 2048
"""
    subprocess.run([sys.executable, "-c", script], timeout=300, check=True)
