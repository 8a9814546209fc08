# SPDX-License-Identifier: Apache-2.0
"""What the plugin did, block by block: the lines that it writes to the file of DEMON_PROBE_LOG."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_probe(path: Path) -> list[Line]:
    """The whole lines so far."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait_for_probe(path: Path, condition: Callable[[Line], bool], *, timeout_s: float = 60.0) -> None:
    """Return once a line meets the condition. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not any(map(condition, read_probe(path))):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no such line in {path} within {timeout_s} s")
        time.sleep(0.05)
