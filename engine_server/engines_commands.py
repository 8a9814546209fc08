# SPDX-License-Identifier: Apache-2.0
"""`demon engines`: TensorRT engines of a checkpoint, built without the GPUs that they are for, and how exact they are."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine_server.command_options import Model
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.model.layouts import Layout
    from trt_engines.build_plan import Needed
    from trt_engines.engine_folder import EngineFolder
    from trt_engines.metadata import Machine
    from trt_engines.recipe_error import DecoderError

engines_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Music = Annotated[list[Path], typer.Argument(help="Audio files; of each the first 30 s.", exists=True, dir_okay=False)]
FILE_COLUMNS = 170
"""Width of tables where no terminal says how wide it is."""


@engines_app.callback()
def engines() -> None:
    """TensorRT engines: build them, and how exact they are."""


@engines_app.command()
def build(
    checkpoint: Model = "embedded",
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            "--for", help="Compute capability to build for, as SM89; may be repeated. Default: of the GPU here."
        ),
    ] = None,
    duration: Annotated[
        list[int] | None, typer.Option(help="Longest window in seconds: 60, 120 or 240; may be repeated. Default: 60.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All durations.")] = False,
    decoder_only: Annotated[bool, typer.Option("--decoder-only", help="No engines of the codec.")] = False,
    vae_only: Annotated[bool, typer.Option("--vae-only", help="No engines of the decoder.")] = False,
    precision: Annotated[
        Literal["mixed", "bf16", "fp16", "fp32", "fp8"],
        typer.Option(help="Of the decoder's arithmetic and weights; `demon engines precision` compares them."),
    ] = "mixed",
    refit: Annotated[
        bool, typer.Option("--refit", help="A decoder that hears LoRAs: built where its GPU is, and loaded twice.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built, and build nothing.")] = False,
    force_rebuild: Annotated[bool, typer.Option("--force-rebuild", help="Also what is up to date.")] = False,
    force_onnx: Annotated[
        bool, typer.Option("--force-onnx", help="Export graphs anew, and build their engines.")
    ] = False,
) -> None:
    """Build the engines that are not there or out of date."""
    from engine_server.model.checkpoint import load_checkpoint
    from engine_server.model.checkpoint_files import ASSETS, EMBEDDED, content_hash
    from engine_server.model.hub import checkpoint_folder
    from engine_server.model.layouts import read_layout
    from trt_engines import build_plan, builder
    from trt_engines.engine_folder import EngineFolder, engines_root
    from trt_engines.engine_kinds import DURATIONS_S, kinds_to_build
    from trt_engines.sizes import disk_bytes, model_shape, weights_of
    from trt_engines.targets import machine_to_build_for
    from trt_engines.tensorrt_library import load_tensorrt

    if decoder_only and vae_only:
        raise typer.BadParameter("--decoder-only and --vae-only leave nothing to build")
    console = _console()
    layout = read_layout(ASSETS / EMBEDDED if checkpoint == EMBEDDED else checkpoint_folder(checkpoint))
    shape = model_shape(layout)
    if shape.hop_samples is None and vae_only:
        raise typer.BadParameter(
            "--vae-only leaves nothing to build: the codec of this checkpoint is not ACE-Step's, and runs without TensorRT"
        )
    if shape.hop_samples is None and not decoder_only:
        console.print("The codec of this checkpoint is not ACE-Step's: it runs without TensorRT, and has no engines.")
    try:
        kinds = kinds_to_build(
            shape,
            durations_s=DURATIONS_S if everything else tuple(duration or [DURATIONS_S[0]]),
            has_decoder=not vae_only,
            has_vae=not decoder_only,
            precision=precision,
            is_refittable=refit,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    folder = EngineFolder(engines_root(), checkpoint, content_hash(layout.files))
    machine = machine_to_build_for(load_tensorrt(), gpus or [])
    plan = build_plan.needed(folder, kinds, machine, is_forced=force_rebuild or force_onnx)
    console.print(_table(plan, layout, folder, machine))
    todo = [one.kind for one in plan if one.reason]
    if dry_run or not todo:
        return
    build_plan.check_disk(folder.path, sum(disk_bytes(weights_of(layout, kind), kind) for kind in todo))
    folder.sweep()
    loaded = load_checkpoint(checkpoint, device="cpu", backend="eager")
    exported: set[tuple[str, str]] = set()
    for kind in todo:
        is_first = (kind.component, kind.precision) not in exported
        exported.add((kind.component, kind.precision))
        with console.status("") as status:
            note = builder.build(
                loaded,
                folder,
                kind,
                machine,
                exports_anew=force_onnx and is_first,
                tell=lambda text: status.update(text),
            )
        console.print(f"{kind.name}: {note.engine_bytes / 1e6:.0f} MB in {note.seconds:.0f} s, {folder.engine(kind)}")


@engines_app.command()
def calibrate(
    music: Music,
    checkpoint: Model = "embedded",
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: where `demon engines build --precision fp8` looks.")
    ] = None,
) -> None:
    """Make music, and note how large the inputs of the decoder's Linears become: what fp8 is scaled by."""
    from engine_server.session import Session
    from trt_engines.calibrate import calibrate as calibrated
    from trt_engines.calibration import write_calibration
    from trt_engines.engine_folder import EngineFolder, engines_root

    with Session(checkpoint, dtype="float32") as session, _console().status(f"calibrating {checkpoint}"):
        calibration = calibrated(session, checkpoint, music)
    path = out or EngineFolder(engines_root(), checkpoint, calibration.checkpoint_hash).own_calibration
    write_calibration(path, calibration)
    _console().print(f"{path}: {len(calibration.largest_inputs)} Linears", soft_wrap=True)


@engines_app.command()
def precision(music: Music, checkpoint: Model = "embedded") -> None:
    """How far each precision of engines, and each quantization of a Session, is from eager in float32.

    Computed by torch on the CPU: neither TensorRT nor a GPU is needed.
    """
    from engine_server.model.recipes import RECIPES
    from engine_server.session import Session
    from trt_engines.calibrate import source
    from trt_engines.engine_folder import EngineFolder, engines_root
    from trt_engines.recipe_error import QUANTIZED, Reference

    console = _console()
    columns = ("velocity", "at the worst level", "latents")
    table, quantized = Table("precision", "weights", *columns, "recipe"), Table("quantization", *columns, "all else")
    with Session(checkpoint, dtype="float32", device="cpu") as session, console.status("") as status:
        folder = EngineFolder(engines_root(), checkpoint, session.checkpoint.content_hash)
        status.update("float32, eager")
        reference = Reference(session, [source(session, path) for path in music])
        for recipe in RECIPES.values():
            status.update(recipe.name)
            try:
                error = reference.error(recipe, folder.largest_inputs(session.checkpoint.transformer, recipe))
            except DemonError as fault:
                console.print(escape(f"{recipe.name} is left out. {fault}"), soft_wrap=True)
                continue
            table.add_row(recipe.name, f"{error.weight_bytes / 1e6:.1f} MB", *_percent(error), str(recipe))
        for name, dtype in QUANTIZED:
            status.update(name)
            try:
                off = reference.error_quantized(name, dtype)
            except DemonError as fault:
                console.print(escape(f"{name} is left out. {fault}"), soft_wrap=True)
                continue
            quantized.add_row(name, *_percent(off), str(dtype).removeprefix("torch."))
    console.print("Precisions of engines:", table, "Quantizations of the eager and the compiled decoder:", quantized)
    console.print(
        f"Relative root mean square errors. Velocities are of every step of {reference.generations} generations from noise, "
        f"{session.checkpoint.settings.steps} steps each, latents their results."
    )


def _percent(error: DecoderError) -> list[str]:
    return [f"{100 * part:.3g} %" for part in (error.velocity, error.worst_velocity, error.latents)]


def _table(plan: list[Needed], layout: Layout, folder: EngineFolder, machine: Machine) -> Table:
    from trt_engines.build_report import seconds_of
    from trt_engines.sizes import engine_bytes, weights_of

    table = Table("engine", "longest", "rows", "precision", "size, about", "time", "to do")
    library = f"{machine.library} {machine.library_version}"
    for one in plan:
        kind = one.kind
        rows = max(spans[0].most for spans in kind.axes.values() if 0 in spans)
        took = seconds_of(folder.root, folder.path.name, kind.name, gpu=machine.compute_capability, library=library)
        table.add_row(
            kind.name,
            f"{kind.duration_s:g} s",
            str(rows),
            kind.precision,
            f"{engine_bytes(weights_of(layout, kind), kind) / 1e6:.0f} MB",
            "not known yet" if took is None else f"{datetime.timedelta(seconds=round(took))} last time",
            escape(f"build: {one.reason}" if one.reason else "nothing"),
        )
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=FILE_COLUMNS)
