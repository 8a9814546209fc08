# SPDX-License-Identifier: Apache-2.0
"""Whether PyTorch can use a GPU here, or why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_server.doctor.finding import Finding, ok, warn

DEVICE_FILE = Path("/dev/nvidiactl")


def check_gpu(torch: Any = None, device_file: Path = DEVICE_FILE) -> list[Finding]:
    """A GPU that is there can be used; none is no fault, for the engine plays on the CPU.

    torch: the library unless given.
    """
    if torch is None:
        import torch
    build = f"PyTorch {torch.__version__}"
    is_there = device_file.exists()
    if not torch.cuda.is_available():
        if not is_there:
            return [ok("gpu", f"none here; the engine computes on the CPU ({build})")]
        if torch.version.cuda is None:
            advice = "to compute on the GPU, install PyTorch's build for CUDA"
            return [warn("gpu", f"one is here, but {build} is built for the CPU only", advice)]
        advice = (
            "run nvidia-smi: driver and PyTorch must agree on a version of CUDA, and CUDA_VISIBLE_DEVICES must allow it"
        )
        return [warn("gpu", f"{build} for CUDA {torch.version.cuda} cannot use the GPU that is here", advice)]
    findings = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        text = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        try:
            works = float(torch.ones(1, device=f"cuda:{index}").add(1).cpu()[0]) == 2.0
            reason = "wrong result"
        except RuntimeError as error:  # also out of memory
            works, reason = False, str(error).strip().split("\n", 1)[0]
        if works:
            findings.append(ok("gpu", f"{text}, usable ({build}, CUDA {torch.version.cuda})"))
        else:
            findings.append(warn("gpu", f"{text}: {reason}", "see which programs use it (nvidia-smi), and its driver"))
    return findings
