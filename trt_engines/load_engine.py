# SPDX-License-Identifier: Apache-2.0
"""From an engine's file to an engine of TensorRT, on the GPU."""

from __future__ import annotations

from typing import Any

from shared_protocol.errors import DemonError
from trt_engines.engine_file import EngineFile
from trt_engines.metadata import Machine
from trt_engines.tensorrt_library import TensorRt


def load_engine(file: EngineFile, library: TensorRt, machine: Machine) -> Any:
    """TensorRT's own engine (`ICudaEngine`), on the current GPU.

    Raises DemonError: `E_ENGINE_STALE` and `E_ENGINE_FILE` as `EngineFile.check` and `EngineFile.read`, before TensorRT sees
    anything; `E_ENGINE_LOAD` if TensorRT refuses it, with what it says, as where memory is full or there is no driver.
    """
    file.check(machine)
    plan = file.read()
    library.errors.clear()
    runtime = library.module.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
    if engine is None:
        raise DemonError(
            "E_ENGINE_LOAD",
            f"{library.name} {library.version} does not load {file.path}: {library.take_errors()}. If the GPU's memory is full, "
            f"end what else uses it (see nvidia-smi); else run: {file.command()} --force-rebuild; or use the eager backend",
        )
    return engine
