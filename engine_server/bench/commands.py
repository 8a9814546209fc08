# SPDX-License-Identifier: Apache-2.0
"""`demon bench`: what a machine can do."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine_server.command_options import Device
from engine_server.device_name import AUTO, wanted_device

bench_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
EXIT_INTERRUPTED = 130


class ModelName(StrEnum):
    """Models that can be measured."""

    EMBEDDED = "embedded"
    TWO_B = "2b"
    XL = "xl"


class QuantizationName(StrEnum):
    """Types of the Linears that can be measured."""

    FP8 = "fp8"
    INT8 = "int8"


class BackendName(StrEnum):
    """Backends by name; what cannot be measured says so in its line."""

    EAGER = "eager"
    COMPILE = "compile"
    TENSORRT = "tensorrt"


@bench_app.callback()
def bench() -> None:
    """Measure what a machine can do."""


@bench_app.command()
def gpu(
    model: Annotated[
        list[ModelName] | None,
        typer.Option(help="May be repeated. Default: 2b and xl on a GPU, embedded on a CPU. Weights are random."),
    ] = None,
    duration: Annotated[
        list[float] | None,
        typer.Option(min=1.0, max=600.0, help="Seconds; may be repeated. Default: 60, 120, 240 on a GPU, else 10."),
    ] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, help="Slots; may be repeated. Default: 1, 4, 8 on a GPU, else 4."),
    ] = None,
    backend: Annotated[
        list[BackendName] | None, typer.Option(help="May be repeated. Default: eager and compile on a GPU, else eager.")
    ] = None,
    quantization: Annotated[
        QuantizationName | None, typer.Option(help="Of the decoder's Linears; the floor stays that of --dtype.")
    ] = None,
    device: Device = AUTO,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: bfloat16 on a GPU, else float32.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, max=600.0, help="To measure ticks for in each line; 16 ticks at least.")
    ] = 5.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures, written after each.")] = None,
) -> None:
    """Ticks, generations, decodes and memory of full-size models, beside what their arithmetic alone would take here."""
    from engine_server.files import check_folder, write_json

    wanted_device(device)
    if json_file is not None:
        check_folder(json_file)

    import torch

    from engine_server.bench.clock import matrix_rate
    from engine_server.bench.lines import Line, lines
    from engine_server.bench.measure import Combination
    from engine_server.bench.models import MODELS
    from engine_server.bench.show import WIDTH, show_head, show_line
    from engine_server.model.placement import open_device, placement

    place = placement(device, dtype)
    open_device(place)
    is_gpu = place.device.type == "cuda"
    combinations = [
        Combination(MODELS[name], length, slots, machinery.value, quantization and quantization.value)
        for name in model or ([ModelName.TWO_B, ModelName.XL] if is_gpu else [ModelName.EMBEDDED])
        for machinery in backend or ([BackendName.EAGER, BackendName.COMPILE] if is_gpu else [BackendName.EAGER])
        for length in duration or ([60.0, 120.0, 240.0] if is_gpu else [10.0])
        for slots in depth or ([1, 4, 8] if is_gpu else [4])
    ]
    console = Console()
    if console.width < WIDTH:  # a terminal wraps what is too long, where the table would cut it
        console = Console(width=WIDTH)
    rate = matrix_rate(place.device, place.dtype)
    kind = str(place.dtype).removeprefix("torch.")
    machine = f"{place.processor}, {kind}, torch {torch.__version__}"
    show_head(console, f"{machine}; products of large matrices: {rate / 1e12:.3g} TFLOP/s")
    about = {"processor": place.processor, "dtype": kind, "torch": str(torch.__version__), "flops_per_s": rate}
    done: list[Line] = []
    try:
        for line in lines(combinations, place, rate, seconds):
            done.append(line)
            show_line(console, line)
            if json_file is not None:
                write_json(json_file, {**about, "lines": [one.as_json() for one in done]})
    except KeyboardInterrupt as stop:
        console.print(f"interrupted after {len(done)} of {len(combinations)} lines", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from stop
