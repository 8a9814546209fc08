# SPDX-License-Identifier: Apache-2.0
"""`demon status`: a table that follows what happens, one table, or JSON."""

from __future__ import annotations

import time

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from engine_server.status.ask import Answer, ask_all
from engine_server.status.table import draw
from shared_protocol.errors import DemonError


def show_once(endpoint: str, console: Console) -> None:
    """Print one table. Raises as `ask_all`."""
    console.print(draw(ask_all(endpoint)))


def show_json(endpoint: str) -> None:
    """Print a JSON list: for every server its `endpoint`, and its `report` or an `error`. Raises as `ask_all`."""
    rows = [{"endpoint": a.endpoint, "report": a.report, "error": a.error} for a in ask_all(endpoint)]
    print(msgspec.json.format(msgspec.json.encode(rows), indent=1).decode())


def follow(endpoint: str, console: Console, every_s: float) -> None:
    """Draw the table anew again and again, until Ctrl-C; a server that goes away is waited for. Raises as `ask_all`, at first."""
    before = ask_all(endpoint)
    with Live(draw(before), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(every_s)
            try:
                answers = ask_all(endpoint)
            except DemonError as error:
                answers = [Answer(endpoint, None, str(error))]
                live.update(Text(str(error), style="red"), refresh=True)
            else:
                live.update(draw(answers, before), refresh=True)
            before = answers
