# SPDX-License-Identifier: Apache-2.0
"""How far an evaluation is: silent, or a bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
Advance = Callable[[], object]


class Silent:
    """Tells nothing."""

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Advance]:
        """While something is done `total` times; yields what to call after each."""
        yield lambda: None

    def each(self, items: Sequence[Item], text: str) -> Iterator[Item]:
        """Goes through items, counting them."""
        with self.counting(text, len(items)) as advance:
            for item in items:
                yield item
                advance()


class Bars(Silent):
    """A bar per task while it lasts; on anything but a terminal, a line when it begins."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Advance]:
        """See `Silent`."""
        if not self._console.is_terminal:
            self._console.print(f"{text} ({total})", highlight=False)
            yield lambda: None
            return
        columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(text, total=total)
            yield lambda: progress.advance(task)
