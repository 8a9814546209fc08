# SPDX-License-Identifier: Apache-2.0
"""The `demon` command."""

from __future__ import annotations

import os

# Spinning OpenMP threads slow a tick tenfold beside any other busy process; must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from engine_server.command_options import Backend, Depth, Device, LogFormat, Loras, Metrics, Model
from engine_server.device_name import AUTO, leaves_choice, wanted_device
from shared_protocol import DEFAULT_ENDPOINT
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.model.static_decoder import FormReady
    from engine_server.tracks.engine import Engine

console = Console(stderr=True)
log = logging.getLogger("demon.engine")

FILE_COLUMNS = 170
"""Width of tables where no terminal says how wide it is."""
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


class _CtrlC:
    """Ctrl-C that does not get lost: a KeyboardInterrupt that meets the import of a library may be swallowed there."""

    came = False

    def take(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise what was swallowed."""
        if self.came:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Take SIGINT, and let no traceback of it be printed where Python can raise nothing: in callbacks and destructors."""
        self.came = False
        signals, tell = signal.signal(signal.SIGINT, self.take), sys.unraisablehook
        sys.unraisablehook = lambda what: None if what.exc_type is KeyboardInterrupt else tell(what)
        try:
            yield
        finally:
            sys.unraisablehook = tell
            signal.signal(signal.SIGINT, signals)


ctrl_c = _CtrlC()


class _Commands(TyperGroup):
    """Known errors become one line and an exit status, Ctrl-C ends cleanly."""

    def invoke(self, ctx: Any) -> object:
        try:
            with ctrl_c.handled():
                return super().invoke(ctx)
        except DemonError as error:
            console.print(f"[red]{error.code}[/red]: {escape(error.message)}", highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_ERROR) from error
        except KeyboardInterrupt as stop:
            console.print("interrupted; nothing was written")
            raise typer.Exit(EXIT_INTERRUPTED) from stop


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def demon() -> None:
    """DEMON Bridge: the engine behind the DEMON plugin."""


@app.command()
def serve(
    model: Model = "embedded",
    endpoint: Annotated[
        str, typer.Option(help="Address to listen on. Beyond loopback it needs keys: see `demon keys`.")
    ] = DEFAULT_ENDPOINT,
    depth: Depth = 4,
    device: Device = AUTO,
    backend: Backend = "auto",
    loras: Loras = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every track's comings and goings.")] = False,
    log_format: LogFormat = "text",
    engines: Annotated[
        int, typer.Option(min=1, max=16, help="Processes to share the tracks. The endpoint sends each to one of them.")
    ] = 1,
    until_stdin_closes: Annotated[
        bool,
        typer.Option("--until-stdin-closes", help="Stop when standard input ends: with the program that started it."),
    ] = False,
    metrics: Metrics = None,
    report_tracks: Annotated[
        bool,
        typer.Option("--report-tracks", help="Say how many tracks there are, whenever that changes and every second."),
    ] = False,
) -> None:
    """Serve plugins until Ctrl-C."""
    # Until there is something to load anew; processes that are started here inherit it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from engine_server.serve.handles import raise_handle_limit
    from engine_server.serve.keys import KeyStore
    from engine_server.serve.logs import configure_logging
    from engine_server.serve.security import check_bind
    from engine_server.status.metrics import own_metrics

    wanted_device(device)  # before anything heavy is loaded
    check_bind(endpoint, KeyStore())
    configure_logging(logging.INFO if verbose else logging.WARNING, log_format)
    raise_handle_limit()
    with own_metrics(metrics) as on_serving:
        if until_stdin_closes:
            threading.Thread(target=terminate_after_stdin, daemon=True).start()
        if engines > 1:
            from engine_server.serve.gpus import visible_gpus
            from engine_server.serve.serve_engines import serve_engines

            options = ["--model", model, "--depth", str(depth), "--device", device, "--backend", backend]
            options += [word for folder in loras or [] for word in ("--loras", str(folder))]
            options += ["--log-format", log_format, *(["--verbose"] if verbose else [])]
            gpus = visible_gpus() if leaves_choice(device) else []
            serve_engines(endpoint, engines, options, gpus=gpus, on_serving=on_serving)
            return
        report_progress(5, "loading the libraries")
        from engine_server.serve.serve_engine import serve_engine
        from engine_server.serve.warm_up import warm_up

        report_progress(80, f"loading {model}")

        settled: str = backend

        def load() -> Engine:
            nonlocal settled
            engine = load_engine(model, depth, loras or [], device=device, backend=settled)
            settled = engine.checkpoint.choice.backend  # bounces in progress go on by it when it is loaded anew
            report_progress(90, "warming up")
            warm_up(engine, report_form)
            return engine

        serve_engine(endpoint, load, on_serving=on_serving, reports_tracks=report_tracks)


@app.command()
def render(
    source: Annotated[
        Path, typer.Argument(help="Audio file: WAV or FLAC, mono or stereo, any rate from 8 to 192 kHz.")
    ],
    out: Annotated[Path, typer.Option(help="WAV to write, 32-bit float; a receipt is written beside it.")],
    lane: Annotated[list[str] | None, typer.Option(help="NAME=VALUE or NAME=FILE.csv; may be repeated.")] = None,
    prompt: Annotated[str, typer.Option(help="What the music should become.")] = "",
    prompt_b: Annotated[str, typer.Option(help="Prompt B, towards which lane prompt_blend goes.")] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
    steps: Annotated[int, typer.Option(min=0, max=50, help="Denoising steps; 0 is the checkpoint's own number.")] = 0,
    solver: Annotated[str, typer.Option(help="ode or sde.")] = "ode",
    lora: Annotated[
        list[str] | None,
        typer.Option(help="LoRA by name or content hash; up to four, whose strengths are lanes lora_1 to lora_4."),
    ] = None,
    loras: Loras = None,
    timbre: Annotated[Path | None, typer.Option(help="Audio whose sound the music should have (lane timbre).")] = None,
    structure: Annotated[Path | None, typer.Option(help="Audio whose structure replaces the source's.")] = None,
    bpm: Annotated[int, typer.Option(min=0, max=400, help="Tempo told to the model, from 20 on; 0 tells none.")] = 0,
    meter: Annotated[int, typer.Option(min=0, max=16, help="Beats of a bar told to the model; 0 tells none.")] = 0,
    loop: Annotated[
        bool, typer.Option("--loop", help="Make the file at once, as a clip of the plugin's Loop mode.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=1, max=8, help="With --loop: how often lane feedback returns the result.")
    ] = 1,
    model: Model = "embedded",
    depth: Depth = 4,
    device: Device = AUTO,
    backend: Backend = "auto",
) -> None:
    """Bounce a file, with the same bits as through the plugin."""
    from engine_server.bounce import Job, run_bounce

    wanted_device(device)
    job = Job(
        source=source,
        lanes=tuple(lane or ()),
        prompt=prompt,
        prompt_b=prompt_b,
        seed=seed,
        steps=steps,
        solver=solver,
        loras=tuple(lora or ()),
        timbre=timbre,
        structure=structure,
        bpm=bpm,
        meter=meter,
        is_loop=loop,
        feedback_rounds=rounds,
    )
    run_bounce(job, out, lambda: load_engine(model, depth, loras or [], device=device, backend=backend), console)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="As --model of the other commands.")] = "embedded",
    work: Annotated[
        Path | None, typer.Option(help="Folder of the training's data and of what is kept between runs.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases: see that everything runs.")] = False,
    part: Annotated[
        list[str] | None,
        typer.Option(help="codec, identity, covers, colours, dose, lanes, loras or speed; repeatable. All by default."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Scale of classifier-free guidance in covers; 1 is none.")
    ] = 1.0,
    loras: Annotated[Path | None, typer.Option(help="Folder of LoRA files; by default those of the engine.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG to draw them in.")] = None,
) -> None:
    """Measure what a checkpoint does to music, against its targets. Ends with status 0 even where one is missed."""
    from engine_server.files import check_folder

    for out in (json_file, picture):
        if out is not None:
            check_folder(out)
    from training.evaluation.requirements import PARTS, check_requirements

    check_requirements(part or PARTS)
    from training.evaluation.run import Options, run
    from training.store import DEFAULT_WORK

    options = Options(model, work or DEFAULT_WORK, part or PARTS, quick, guidance, loras)
    width = None if sys.stdout.isatty() else FILE_COLUMNS
    finished: list[str] = []
    try:
        run(
            options,
            Console(width=width),
            json=json_file,
            picture=picture,
            on_part=lambda result: finished.append(result.part),
        )
    except KeyboardInterrupt as stop:
        if json_file is None or not finished:
            raise  # nothing was written, and that is what is said
        console.print(f"interrupted; {json_file} holds {', '.join(finished)}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from stop


def report_progress(percent: int, what: str) -> None:
    """A line for whoever has started the server, which the plugin shows. Stages, by what they take on a CPU."""
    print(f"{percent} % {what}", file=sys.stderr, flush=True)


def report_form(ready: FormReady) -> None:
    """As `report_progress`, of a decoder that compiles: tens of seconds for each form."""
    report_progress(90 + 9 * ready.number // ready.of, f"compiled {ready.number} of {ready.of}: {ready.form}")


def terminate_after_stdin() -> None:
    """Wait until whoever holds the other end of standard input is gone, then stop this process as SIGTERM does."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def load_engine(
    model: str, depth: int, loras: Sequence[Path] = (), *, device: str = AUTO, backend: str = "auto"
) -> Engine:
    """Import torch, load the checkpoint and make the engine, saying so meanwhile. device, backend: as for `load_chosen`."""
    with console.status(f"loading {model}"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from engine_server.model.auto_backend import load_chosen
        from engine_server.tracks.engine import Engine
        from engine_server.tracks.lora_catalogue import offers_loras, user_folder

        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
            library.set_verbosity_error()
        for folder in loras:
            if not folder.is_dir():
                raise DemonError("E_LORA_FILE", f"there is no folder {folder}")
        folders = [user_folder(), *loras]
        checkpoint = load_chosen(model, device=device, backend=backend, offers_loras=offers_loras(model, folders))
        log.info("%s computes on %s (%s)", checkpoint.name, checkpoint.placement.device, checkpoint.placement.processor)
        engine = Engine(checkpoint, depth=depth, loras=folders)
        ctrl_c.check()
        return engine


@app.command()
def status(
    endpoint: Annotated[str, typer.Option(help="Where the engine, or the gateway, listens.")] = DEFAULT_ENDPOINT,
    every: Annotated[float, typer.Option(min=0.2, max=3600.0, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and end.")] = False,
) -> None:
    """Show engines and their tracks, live until Ctrl-C in a terminal."""
    from engine_server.status.show import follow, show_json, show_once

    if as_json:
        show_json(endpoint)
    elif once or not sys.stdout.isatty():
        show_once(endpoint, Console(width=None if sys.stdout.isatty() else FILE_COLUMNS))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            follow(endpoint, Console(), every)


@app.command()
def doctor(
    model: Model = "embedded",
    endpoint: Annotated[str, typer.Option(help="Where the engine would listen.")] = DEFAULT_ENDPOINT,
    device: Device = AUTO,
    loras: Loras = None,
    quick: Annotated[bool, typer.Option("--quick", help="Load neither checkpoint nor libraries.")] = False,
    measure_backends: Annotated[
        bool,
        typer.Option(
            "--measure-backends",
            help="Measure all backends, compiling among them, for a minute or more: --backend auto goes by it from then on.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and say what to do. Ends with status 1 if anything fails."""
    from engine_server.doctor.report import all_checks, examine

    if quick and measure_backends:
        raise typer.BadParameter("--quick measures nothing; leave one of the two out")
    checks = all_checks(model, endpoint, device=device, loras=loras or (), quick=quick, measures=measure_backends)
    if not examine(checks, as_json=as_json):
        raise typer.Exit(EXIT_ERROR)


def add_groups() -> None:
    """Commands that have commands of their own."""
    from engine_server.bench.commands import bench_app
    from engine_server.cluster.commands import cluster_app
    from engine_server.engines_commands import engines_app
    from engine_server.serve.keys_commands import keys_app

    app.add_typer(bench_app, name="bench")
    app.add_typer(cluster_app, name="cluster")
    app.add_typer(engines_app, name="engines")
    app.add_typer(keys_app, name="keys")


add_groups()

if __name__ == "__main__":
    app()
