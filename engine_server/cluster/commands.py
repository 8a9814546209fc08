# SPDX-License-Identifier: Apache-2.0
"""`demon cluster`: engines on several machines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine_server.command_options import Backend, Depth, Device, LogFormat, Loras, Metrics, Model
from engine_server.device_name import AUTO, wanted_device
from shared_protocol import DEFAULT_ENDPOINT
from shared_protocol.errors import DemonError

if TYPE_CHECKING:
    from engine_server.cluster.desk import ClusterState, NodeState
    from engine_server.cluster.plan import Node
    from engine_server.cluster.ray_desk import DeskVisitor

cluster_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Address = Annotated[
    str, typer.Option(help="HOST:PORT of the Ray cluster's head; auto is the cluster that this machine belongs to.")
]
NodeName = Annotated[str, typer.Argument(help="Name, address, or the beginning of the id of a node: see status.")]
MOST_ENGINES = 256
EMPTIED_S = 120.0
"""A drained node's tracks wait up to a minute for engines elsewhere."""
POLL_S = 0.5
WIDTH = 200
"""Of tables where no terminal says how wide it is."""


@cluster_app.callback()
def cluster() -> None:
    """Engines on the nodes of a Ray cluster, behind one endpoint."""


@cluster_app.command()
def start(
    engines: Annotated[int, typer.Option(min=1, max=MOST_ENGINES, help="How many, over all nodes.")],
    address: Address = "auto",
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each engine: 1, or 0.5 for two on one.")] = 0.0,
    cpus: Annotated[
        int, typer.Option(min=1, help="CPUs of each engine, and the threads it computes with; bits depend on it.")
    ] = 2,
    endpoint: Annotated[
        str, typer.Option(help="Address to listen on. Engines on other machines need one beyond loopback, and keys.")
    ] = DEFAULT_ENDPOINT,
    first_port: Annotated[
        int, typer.Option(min=0, max=65_000, help="Engines listen on the first free pairs of ports from here; 0: any.")
    ] = 47_802,
    model: Model = "embedded",
    depth: Depth = 4,
    device: Device = AUTO,
    backend: Backend = "auto",
    loras: Loras = None,
    metrics: Metrics = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every coming and going.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Serve plugins, with engines on the cluster's nodes, until Ctrl-C. Checkpoint and LoRAs lie at the same path on each."""
    from engine_server.cluster.engine_actor import EngineSettings
    from engine_server.cluster.plan import Need
    from engine_server.cluster.start import serve_cluster
    from engine_server.serve.handles import raise_handle_limit
    from engine_server.serve.keys import KeyStore
    from engine_server.serve.logs import configure_logging
    from engine_server.serve.security import check_bind
    from engine_server.status.metrics import own_metrics

    if (wanted := wanted_device(device)).startswith("cuda") and gpus == 0:
        raise DemonError(
            "E_DEVICE", f"device is {wanted!r}, and no GPU is asked for: give each engine one, as --gpus 1"
        )
    need = Need(cpus, gpus)
    store = KeyStore()
    gateway_key = store.server().public if check_bind(endpoint, store) else ""
    level = logging.INFO if verbose else logging.WARNING
    configure_logging(level, log_format)
    raise_handle_limit()
    settings = EngineSettings(
        model=str(Path(model).absolute()) if Path(model).is_dir() else model,  # nodes have no current folder of ours
        depth=depth,
        device=device if gpus else "cpu",  # without a reservation Ray may hide a node's GPUs, or show all of them
        backend=backend,
        loras=tuple(str(folder.absolute()) for folder in loras or []),
        threads=cpus,
        first_port=first_port,
        gateway_key=gateway_key,
        log_level=level,
        log_format=log_format,
    )
    with own_metrics(metrics) as on_serving:
        serve_cluster(address, endpoint, engines, need, settings, on_serving=on_serving)


@cluster_app.command()
def status(
    address: Address = "auto", as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show nodes and engines."""
    with _desk(address) as desk:
        state = desk.state()
    if as_json:
        import msgspec

        print(msgspec.json.encode(state).decode())
        return
    _print(state)


@cluster_app.command()
def drain(node: NodeName, address: Address = "auto") -> None:
    """Take the engines away from a node, for maintenance: their tracks go on elsewhere. Returns when none is left there."""
    with _desk(address) as desk:
        found = _find(node, desk.state())
        state = desk.order("drain", found.id)
        deadline = time.monotonic() + EMPTIED_S
        while any(row.id == found.id and row.engines for row in state.nodes):
            if time.monotonic() > deadline:
                raise DemonError("E_CLUSTER", f"{found} still has engines; see `demon cluster status`")
            time.sleep(POLL_S)
            state = desk.state()
    _say(f"{found} is drained" + (f". {state.shortage}" if state.shortage else ""))


@cluster_app.command()
def undrain(node: NodeName, address: Address = "auto") -> None:
    """Let a drained node have engines again."""
    with _desk(address) as desk:
        found = _find(node, desk.state())
        desk.order("undrain", found.id)
    _say(f"{found} may have engines")


@cluster_app.command()
def scale(
    engines: Annotated[int, typer.Argument(min=0, max=MOST_ENGINES, help="How many there shall be.")],
    address: Address = "auto",
) -> None:
    """Have more engines, or fewer: the tracks of those that go find others."""
    with _desk(address) as desk:
        state = desk.order("scale", str(engines))
    _say(f"{engines} engines are wanted, {sum(one.state == 'serving' for one in state.engines)} serve now")


@contextmanager
def _desk(address: str) -> Iterator[DeskVisitor]:
    """The running gateway's desk. Raises DemonError `E_RAY`, `E_CLUSTER`."""
    from engine_server.cluster.ray_access import LogLines, join
    from engine_server.cluster.ray_desk import DeskVisitor

    with redirect_stdout(LogLines()):
        ray = join(address)
        try:
            yield DeskVisitor(ray)
        finally:
            ray.shutdown()


def _find(text: str, state: ClusterState) -> Node:
    from engine_server.cluster.plan import Node, find_node

    return find_node(text, [Node(row.id, row.name, row.address, row.cpus, row.gpus) for row in state.nodes])


def _print(state: ClusterState) -> None:
    from engine_server.cluster.plan import SHORT_ID

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    model = (
        f"{state.checkpoint} {state.checkpoint_hash[:12]} {state.backend}"
        if state.checkpoint
        else "no engine has served yet"
    )
    console.print(Text(f"{state.endpoint}: {state.wanted} engines wanted, {model}"), soft_wrap=True)
    nodes = Table("node", "id", "address", "CPU", "GPU", "engines", "state")
    for row in state.nodes:
        nodes.add_row(
            Text(row.name),
            row.id[:SHORT_ID],
            row.address,
            f"{row.cpus:g}",
            f"{row.gpus:g}",
            str(row.engines),
            Text(row.state),
        )
    console.print(nodes)
    names = {row.id: _label(row) for row in state.nodes}
    engines = Table("engine", "node", "process", "GPU", "endpoint", "state", "tracks")
    for one in state.engines:
        engines.add_row(
            str(one.engine),
            Text(names.get(one.node, one.node[:SHORT_ID])),
            str(one.pid or ""),
            one.devices,
            one.endpoint,
            one.state,
            f"{one.tracks} of {one.capacity}" if one.capacity else "",
        )
    console.print(engines)
    if state.shortage:
        console.print(Text(state.shortage), soft_wrap=True)


def _label(row: NodeState) -> str:
    from engine_server.cluster.plan import SHORT_ID

    return f"{row.name} ({row.id[:SHORT_ID]})"


def _say(text: str) -> None:
    Console(stderr=True).print(Text(text), soft_wrap=True)
