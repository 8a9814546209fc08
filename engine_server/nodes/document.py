# SPDX-License-Identifier: Apache-2.0
"""Write docs/nodes.md from the definitions: `python -m engine_server.nodes.document` in the project's root."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine_server.nodes import NODE_TYPES
from engine_server.nodes.definition import NodeDefinition, NodeParam, NodePort

HEAD = """# Nodes

Made from the definitions in `engine_server/nodes`; do not edit by hand.

Every node is a thin layer over the Session API. A `CURVE` or `MASK` input, and a parameter of kind *curve*, takes a number or a
value per frame; a curve of another length than the piece is stretched to it. A parameter may be wired too: a `NUMBER` output
feeds integers, numbers and curves, a `TEXT` output feeds strings and selections, a `CURVE` output feeds curves. Equal types
connect. Arguments are held to these tables at every call: unknown or missing names, types, ranges and options are a
`ValueError` that names them.

```python
from engine_server.nodes import Graph

with Graph() as graph:
    graph.add("acestep.LoadModel", "load")
    graph.add("acestep.EncodeText", "words", tags="string ensemble")
    graph.add("acestep.EncodeConditioning", "prompt")
    graph.add("acestep.DiffusionConfig", "config", seed=7)
    graph.add("acestep.OdeSolver", "solver")
    graph.add("acestep.Generate", "generate", duration=10.0)
    graph.add("acestep.VAEDecodeAudio", "decode")
    for wire in (
        ("load", "clip", "words", "clip"),
        ("load", "model", "prompt", "model"),
        ("words", "text_embed", "prompt", "text_embed"),
        ("load", "model", "generate", "model"),
        ("config", "config", "generate", "config"),
        ("solver", "solver", "generate", "solver"),
        ("prompt", "conditioning", "generate", "positive"),
        ("load", "vae", "decode", "vae"),
        ("generate", "latent", "decode", "latent"),
    ):
        graph.connect(*wire)
    audio = graph.run()["decode"]["audio"]
```

## What other node sets for this model have, and this one has not

| parameter | why |
|---|---|
| `use_cache` of DiffusionConfig and StreamDenoise | Had no effect; keys and values of a condition are always kept. |
| `noise_on_cpu` of both | Noise is always drawn on the CPU, so that a seed sounds the same on every machine. |
| `x0_target_gate` of DiffusionConfig | Had no effect; Modulation's is the one that acts. |
| `vae_overlap` of StreamVAEDecode | Had no effect; windows are exact without one. |
| `dcw_advanced` of StreamDenoise | Three parameters: `dcw_mult_blend`, `dcw_mag_phase`, `dcw_soft_thresh`. |
| `project_root` of LoadModel | `config_path` takes any folder. |
| `use_flash_attention`, `compile_decoder`, `compile_vae` of LoadModel | The backends say it. |
| `offload_to_cpu`, `offload_text_encoder` of LoadModel | There is no offloading. |

"""


def document() -> str:
    """The whole page, in Markdown."""
    definitions = [kind.definition for kind in NODE_TYPES.values()]
    categories = list(dict.fromkeys(definition.category for definition in definitions))
    return HEAD + "".join(
        f"## {category.capitalize()}\n\n" + "".join(_node(each) for each in definitions if each.category == category)
        for category in sorted(categories)
    )


def _node(definition: NodeDefinition) -> str:
    lines = [f"### `{definition.node_type_id}`: {definition.display_name}\n\n{definition.description}\n\n"]
    ports = [*_ports("in", definition.inputs), *_ports("out", definition.outputs)]
    lines.append("| | port | type | |\n|---|---|---|---|\n" + "".join(ports) + "\n")
    if definition.params:
        params = "".join(map(_param, definition.params))
        lines.append("| parameter | kind | default | range | |\n|---|---|---|---|---|\n" + params + "\n")
    return "".join(lines)


def _ports(direction: str, ports: Iterable[NodePort]) -> Iterable[str]:
    for port in ports:
        type_ = f"{port.type}{'' if port.required else ' or None'}"
        yield f"| {direction} | `{port.name}` | {type_} | {port.description} |\n"


def _param(param: NodeParam) -> str:
    name = f"`{param.name}`{' (hidden)' if param.hidden else ''}"
    default = '""' if param.default == "" else str(param.default)
    return f"| {name} | {param.type} | {default} | {_range(param)} | {param.description} |\n"


def _range(param: NodeParam) -> str:
    if param.options:
        return ", ".join(param.options)
    low = "any" if param.min is None else f"{param.min:.10g}"
    high = "any" if param.max is None else f"{param.max:.10g}"
    return "" if param.min is None and param.max is None else f"{low} to {high}"


if __name__ == "__main__":
    Path("docs/nodes.md").write_text(document(), encoding="utf-8")
