# SPDX-License-Identifier: Apache-2.0
"""`velocity`, compiled whole by torch for each shape that it meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine_server.model.dit import Velocity, velocity
from shared_protocol.errors import DemonError

MOST_PROGRAMS = 128
"""Compiled programs kept of one decoder, one for each form. torch keeps 256 of one function, whatever asks for them."""

Compiler = Callable[[Any, Any], Any]


def inductor(graph: Any, inputs: Any) -> Any:
    """torch's own compiler: C++ on the CPU, Triton on CUDA."""
    from torch._inductor.compile_fx import compile_fx  # imports half of torch

    return compile_fx(graph, inputs)


class CompiledVelocity:
    """A `Velocity` that compiles at the first call of each shape. One thread.

    A call raises DemonError `E_BACKEND` if it cannot be compiled (no C++ compiler, too many shapes): it never runs uncompiled.
    compiler: what makes a program of torch's graph and example inputs.
    """

    def __init__(self, run: Velocity = velocity, *, compiler: Compiler = inductor) -> None:
        self._compiler = compiler
        self.programs = 0
        """Compiled so far, or found compiled on the disk. Counted where torch hands over what to compile, so none is missed."""
        options = {"dynamic": False, "fullgraph": True, "recompile_limit": MOST_PROGRAMS, "isolate_recompiles": True}
        compile_: Any = torch.compile  # its type stubs lag behind its arguments
        self._run = compile_(run, backend=self._compile, **options)

    def __call__(self, *arguments: Any) -> Tensor:
        """See `velocity`."""
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            out: Tensor = self._run(*arguments)
        except FailOnRecompileLimitHit as error:
            raise DemonError(
                "E_BACKEND",
                f"the decoder is compiled for {self.programs} forms, and torch takes no more: start the engine anew, and use "
                f"fewer lengths of windows and conditions, or the eager backend",
            ) from error
        except TorchDynamoException as error:
            summary = " ".join(str(error).split("\n")[:2]).strip()
            raise DemonError(
                "E_BACKEND", f"the decoder could not be compiled ({summary}); use the eager backend"
            ) from error
        return out

    def _compile(self, graph: Any, inputs: Any) -> Any:
        self.programs += 1
        return self._compiler(graph, inputs)
