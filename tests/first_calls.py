# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.first_calls exp`: in how many processes the first call of a function has other bits than the second.

Each process is forked from one that has computed nothing, so that each has a first call. With `--chosen` they call
`choose_kernels` before. Linux.
"""

from __future__ import annotations

import argparse
import os

import torch

from engine_server.vector_math import FUNCTIONS, choose_kernels

VALUES = 65_536


def main() -> None:
    """Print how many differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.first_calls")
    parser.add_argument("functions", nargs="+", choices=FUNCTIONS, help="taken in turn, one per process")
    parser.add_argument("--processes", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2, help="that share a call")
    parser.add_argument("--chosen", action="store_true", help="call choose_kernels first")
    given = parser.parse_args()
    differing = 0
    for number in range(given.processes):
        child = os.fork()
        if child == 0:
            os._exit(differs(given.functions[number % len(given.functions)], given.threads, is_chosen=given.chosen))
        differing += os.waitpid(child, 0)[1] != 0
    print(f"{differing} of {given.processes} differ")


def differs(name: str, threads: int, *, is_chosen: bool) -> bool:
    """Whether the first call has other bits than the second, in this process."""
    torch.set_num_threads(threads)
    if is_chosen:
        choose_kernels()
    values, function = torch.linspace(0.01, 0.99, VALUES), getattr(torch, name)
    return not torch.equal(function(values), function(values))


if __name__ == "__main__":
    main()
