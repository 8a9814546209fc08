# SPDX-License-Identifier: Apache-2.0
"""A table that leaves columns out, rather than cut names, where the terminal is too narrow for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table

ANY_WIDTH = 10_000


class Sheet:
    """Columns of text, then of numbers, which stand on the right. spare: headings in the order in which they are left out."""

    def __init__(self, texts: Sequence[str], numbers: Sequence[str], spare: Sequence[str]) -> None:
        self._texts, self._numbers, self._spare = texts, numbers, spare
        self.rows: list[Sequence[RenderableType]] = []
        """Cells in the order of the headings."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        headings, spare = [*self._texts, *self._numbers], list(self._spare)
        while True:
            table = self._table(headings)
            wanted = Measurement.get(console, options.update(width=ANY_WIDTH), table).maximum
            if wanted <= options.max_width or not spare:
                yield table
                return
            headings.remove(spare.pop(0))

    def _table(self, headings: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in self._numbers else "left", no_wrap=True)
        for row in self.rows:
            cells = dict(zip([*self._texts, *self._numbers], row, strict=True))
            table.add_row(*(cells[heading] for heading in headings))
        return table
