# SPDX-License-Identifier: Apache-2.0
"""How users name a device. Imports nothing heavy, so that a wrong name is told before a model is loaded."""

from __future__ import annotations

import re

from shared_protocol.errors import DemonError

AUTO = "auto"
_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def check_device(name: str) -> str:
    """The name: `auto`, `cpu`, `cuda` or `cuda:N`. Raises DemonError `E_DEVICE` for any other."""
    if not _NAME.fullmatch(name):
        raise DemonError("E_DEVICE", f"device is {name!r}; auto, cpu, cuda or cuda:N is expected")
    return name


def leaves_choice(name: str) -> bool:
    """Whether a name leaves open which GPU, if there are several."""
    return name in (AUTO, "cuda")
