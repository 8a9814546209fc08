# SPDX-License-Identifier: Apache-2.0
"""Write docs/parameters.md from the sampler's table: `python -m engine_server.document` in the project's root."""

from __future__ import annotations

from pathlib import Path

from engine_server.diffusion.parameters import PARAMETERS, Parameter

HEAD = """# Parameters of the sampler

Made from `PARAMETERS` in `engine_server/diffusion/parameters.py`; do not edit by hand. *Class* says when a change is heard
(S steps, D slots):

- `step`: onset at the next tick, in every slot in flight; converged when the slots that saw it from their first step finish, S
  ticks later. These can be shared: `handle.pipeline.set_shared_curve(name, value)`.
- `submission`: with the first completion of a request made after the change; at most ceil(S/D) + S - 1 ticks.
- `structure`: between ticks; converged after a warm-up.
- `output`: with the next decode.

A *curve* is a number or a value per frame.

| name | class | kind | range | default | what it does |
|---|---|---|---|---|---|
"""


def parameter_table() -> str:
    """The rows of the table, in Markdown."""
    return "".join(_row(parameter) for parameter in PARAMETERS.values())


def _row(p: Parameter) -> str:
    bounds = "" if p.low is None and p.high is None else f"{_shown(p.low)} to {_shown(p.high)}"
    default = "absent" if p.default is None else _shown(p.default)
    return f"| `{p.name}` | {p.propagation} | {p.kind} | {bounds} | {default} | {p.help} |\n"


def _shown(value: float | str | None) -> str:
    if value is None:
        return "any"
    return value if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    Path("docs/parameters.md").write_text(HEAD + parameter_table(), encoding="utf-8")
