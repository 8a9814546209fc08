# SPDX-License-Identifier: Apache-2.0
"""How users name a device. Imports nothing heavy, so that a wrong name is told before a model is loaded."""

from __future__ import annotations

import os
import re

from shared_protocol.errors import DemonError

AUTO = "auto"
VARIABLE = "DEMON_DEVICE"
"""In the environment: what `auto` means, for programs that start an engine without saying where it is to compute."""
_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def check_device(name: str, *, what: str = "device") -> str:
    """The name: `auto`, `cpu`, `cuda` or `cuda:N`. Raises DemonError `E_DEVICE`, saying what has it, for any other."""
    if not _NAME.fullmatch(name):
        raise DemonError("E_DEVICE", f"{what} is {name!r}; auto, cpu, cuda or cuda:N is expected")
    return name


def wanted_device(name: str) -> str:
    """The name that counts: for `auto` what the environment says, if it says something. Raises DemonError `E_DEVICE`."""
    return check_device(os.environ.get(VARIABLE) or AUTO, what=VARIABLE) if check_device(name) == AUTO else name


def leaves_choice(name: str) -> bool:
    """Whether a name leaves open which GPU, if there are several. Raises DemonError `E_DEVICE`."""
    return wanted_device(name) in (AUTO, "cuda")
