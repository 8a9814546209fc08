# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str,
    typer.Option(
        help="'embedded', a checkpoint folder (diffusers or original ACE-Step layout), or owner/name on the hub."
    ),
]
Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda (the first GPU), cuda:N, or auto: a GPU if there is one.")
]
Backend = Annotated[
    Literal["auto", "eager", "compile", "tensorrt"],
    typer.Option(
        help="What runs the decoder. compile: faster after tens of seconds for every new length. tensorrt: the engines of "
        "`demon engines build`. auto: the fastest of what was measured here, see `demon doctor`."
    ),
]
Depth = Annotated[int, typer.Option(min=4, max=16, help="Slots of the ring: generations in flight.")]
Metrics = Annotated[
    str | None,
    typer.Option(help="PORT or HOST:PORT for Prometheus metrics, without keys; loopback unless a host is given."),
]
LogFormat = Annotated[str, typer.Option("--log-format", help="text, or json: an object per line.")]
Loras = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder of LoRA files; may be repeated. The user's own, and the engine's, are always looked through."
    ),
]
