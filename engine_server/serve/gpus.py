# SPDX-License-Identifier: Apache-2.0
"""Which GPUs there are to share out among engines, found without the libraries that would use them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """For each GPU that CUDA would show this process what `CUDA_VISIBLE_DEVICES` has to be for that one alone.

    The variable's own entries, up to one that names none, as CUDA reads it; without it the driver's device files are counted.
    """
    if (wanted := environment.get(VARIABLE)) is None:
        return [str(number) for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    names: list[str] = []
    for name in map(str.strip, wanted.split(",")):
        if not name or name.startswith("-"):
            break
        names.append(name)
    return names
