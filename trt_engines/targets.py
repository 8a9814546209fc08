# SPDX-License-Identifier: Apache-2.0
"""Which GPUs engines can be built for by the TensorRT that is here.

TensorRT-RTX builds ahead of time, for kinds of GPU by name, and with no GPU at all. TensorRT builds for the GPU that it runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from shared_protocol.errors import DemonError
from trt_engines.machine_here import capability, machine_here
from trt_engines.metadata import Machine
from trt_engines.tensorrt_library import TensorRt


def capabilities(library: TensorRt) -> dict[str, Any]:
    """What the library builds for ahead of time, as "SM89", with its own names for that; nothing if it cannot."""
    members = getattr(getattr(library.module, "ComputeCapability", None), "__members__", {})
    return {name: value for name, value in members.items() if name.startswith("SM")}


def machine_to_build_for(library: TensorRt, names: Sequence[str]) -> Machine:
    """The machine of the engines to build.

    names: compute capabilities, as "SM89"; none for that of the current GPU. Raises DemonError `E_DEVICE` if there are none and
    no GPU is here, `E_FIELD` for a name that the library does not build for.
    """
    known = capabilities(library)
    wanted = sorted({name.upper() for name in names})
    if not wanted and not torch.cuda.is_available():
        how = f"name what {library.name} {library.version} builds for with --for: {', '.join(known)}"
        raise DemonError("E_DEVICE", f"there is no GPU here to build for; {how if known else _only_here(library)}")
    if known:
        wanted = wanted or [capability(_current())]
        check_capabilities(library, wanted)
        return Machine(library.name, library.version, ",".join(wanted))
    here = machine_here(library, _current())
    if wanted and wanted != [here.compute_capability]:
        raise DemonError("E_FIELD", f"--for names {', '.join(wanted)}; {_only_here(library)}")
    return here


def check_capabilities(library: TensorRt, names: Sequence[str]) -> None:
    """Raise DemonError `E_FIELD` unless the library builds for all of the names ahead of time, and there is one."""
    known = capabilities(library)
    if not names or any(name not in known for name in names):
        given = ", ".join(names) or "no GPU"
        raise DemonError(
            "E_FIELD",
            f"{library.name} {library.version} does not build for {given}; it builds for {', '.join(known)}. On another GPU use "
            f"the eager or the compile backend",
        )


def _only_here(library: TensorRt) -> str:
    return (
        f"{library.name} {library.version} builds for the GPU that it runs on only: run it there, or build with tensorrt-rtx in "
        f"an environment without {library.name}"
    )


def _current() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)
