# SPDX-License-Identifier: Apache-2.0
"""TensorRT, or TensorRT-RTX, whose Python interface is the same: whichever is installed, and one logger for all of it."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any

from shared_protocol.errors import DemonError

MODULES = ("tensorrt", "tensorrt_rtx")
KEPT = 8
"""Errors remembered until someone asks."""

log = logging.getLogger("demon.tensorrt")


@dataclass(frozen=True)
class TensorRt:
    """The library, for one build at a time: its errors are kept in one place. `module` is untyped: there are no stubs of it."""

    module: Any
    name: str
    version: str
    logger: Any
    """The one `ILogger` of the process: TensorRT keeps the first one that it is given."""
    errors: deque[str]
    """What the library called errors, the latest last."""

    @property
    def builds_for(self) -> list[str]:
        """Compute capabilities that it builds for without such a GPU, as "SM89"; none if it builds where it runs only."""
        known = getattr(self.module, "ComputeCapability", None)
        return [] if known is None else sorted(name for name in known.__members__ if name.startswith("SM"))

    def take_errors(self) -> str:
        """The errors since the last call, in one line."""
        said = "; ".join(self.errors)
        self.errors.clear()
        return said or "it says no more"


@cache
def load_tensorrt() -> TensorRt:
    """The library. Raises DemonError `E_BACKEND` if neither can be imported, with the reasons."""
    reasons = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
            errors: deque[str] = deque(maxlen=KEPT)
            return TensorRt(module, name, str(module.__version__), _logger(module, errors), errors)
        except (ImportError, OSError, AttributeError) as error:
            reasons.append(f"{name}: {error}")
    raise DemonError(
        "E_BACKEND", f"TensorRT is not here ({'; '.join(reasons)}); install it with pip install 'demon-bridge[trt]'"
    )


def _logger(module: Any, errors: deque[str]) -> Any:
    severity = module.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # a class of C++, which must be called by name

        def log(self, kind: Any, message: str) -> None:
            level = levels.get(kind, logging.DEBUG)
            if level == logging.ERROR:
                errors.append(message)
            log.log(level, "%s", message)

    return Logger()
