# SPDX-License-Identifier: Apache-2.0
"""Where a model computes, and in which type."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine_server.device_name import AUTO, wanted_device
from shared_protocol.errors import DemonError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Where a model lives, and in which type the decoder and the encoders of text and condition compute.

    The codec and the 5 Hz tokenizer always compute in float32; latents and conditions are float32 everywhere.
    """

    device: torch.device
    """With its number, if it is a GPU."""
    dtype: torch.dtype

    @property
    def processor(self) -> str:
        """What computes, as far as bits depend on it: the GPU's name, or the number of threads."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{torch.get_num_threads()} threads"


def placement(device: str | None, dtype: str | None) -> Placement:
    """The placement for a device and a type by name; None chooses.

    device: `cpu`, `cuda` (the first GPU), `cuda:N`, or `auto` (also None): what `DEMON_DEVICE` says, else a GPU if there is one.
    dtype: see `DTYPES`; None is bfloat16 on CUDA and float32 on the CPU. Raises DemonError: `E_DEVICE`, `E_DTYPE`.
    """
    name = wanted_device(device or AUTO)
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu":
        name = _gpu(name)
    chosen = torch.device(name)
    kind = dtype or ("bfloat16" if chosen.type == "cuda" else "float32")
    if kind not in DTYPES:
        raise DemonError("E_DTYPE", f"dtype is {kind!r}, not one of {', '.join(DTYPES)}")
    return Placement(chosen, DTYPES[kind])


def open_device(place: Placement) -> None:
    """If this is a GPU, see whether it can be used now, and have cuDNN, for the process, compute float32 as float32 (see
    `spectral_codec`) and always alike.

    Raises DemonError `E_DEVICE` where other programs have filled it, or have it for themselves, or its driver has failed.
    """
    if place.device.type != "cuda":
        return
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    try:
        torch.zeros(1, device=place.device)
    except RuntimeError as error:
        said = str(error).strip().split("\n", 1)[0]
        raise DemonError(
            "E_DEVICE",
            f"{place.device} cannot be used now ({said}); end what else uses this GPU (see nvidia-smi), take another one (device "
            f"cuda:N), or device cpu",
        ) from error


def _gpu(name: str) -> str:
    """`cuda` or `cuda:N` with its number."""
    number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if count == 0:
        advice = (
            "see `demon doctor`"
            if torch.version.cuda
            else f"PyTorch {torch.__version__} here is built for the CPU only: install its build for CUDA"
        )
        raise DemonError("E_DEVICE", f"device is {name!r}, and no GPU can be used here; {advice}, or take device cpu")
    if number >= count:
        others = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DemonError("E_DEVICE", f"device is {name!r}, and the GPUs that can be used here are {others}; take one")
    return f"cuda:{number}"
