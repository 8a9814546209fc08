# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself: its sockets with their types, its parameters with defaults and ranges. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PREFIX = "acestep."


class Wire(StrEnum):
    """Types of wires. Equal types connect; ANY connects to all; a NUMBER is a constant CURVE."""

    MODEL = "MODEL"
    VAE = "VAE"
    CLIP = "CLIP"
    AUDIO = "AUDIO"
    LATENT = "LATENT"
    CONDITIONING = "CONDITIONING"
    MASK = "MASK"
    CURVE = "CURVE"
    CONFIG = "CONFIG"
    TEXT_EMBED = "TEXT_EMBED"
    SOLVER = "SOLVER"
    DCW = "DCW"
    MODULATION = "MODULATION"
    NUMBER = "NUMBER"
    TEXT = "TEXT"
    ANY = "ANY"


class Kind(StrEnum):
    """Types of parameters."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SELECT = "select"
    CURVE = "curve"
    """A number, or a value per frame."""
    ANY = "any"


SOCKET_OF: Mapping[Kind, Wire] = {
    Kind.STRING: Wire.TEXT,
    Kind.SELECT: Wire.TEXT,
    Kind.INTEGER: Wire.NUMBER,
    Kind.NUMBER: Wire.NUMBER,
    Kind.CURVE: Wire.CURVE,
    Kind.ANY: Wire.ANY,
}
"""Wires that may take the place of a parameter's value; a boolean has none."""


@dataclass(frozen=True)
class NodePort:
    """An input or an output. An output that is not required may be None; so may an input."""

    name: str
    type: Wire
    required: bool = True
    description: str = ""


@dataclass(frozen=True)
class NodeParam:
    """A value that is set rather than computed. min and max bound every value of a curve; step is a hint for faders."""

    name: str
    type: Kind
    default: Any
    description: str = ""
    min: float | None = None
    max: float | None = None
    step: float | None = None
    options: tuple[str, ...] = ()
    hidden: bool = False
    """Not shown by default; works like any other."""


@dataclass(frozen=True)
class NodeDefinition:
    """One type of node. Raises ValueError for an id without the prefix and for a name that is used twice."""

    node_type_id: str
    display_name: str
    category: str
    description: str
    inputs: tuple[NodePort, ...] = ()
    outputs: tuple[NodePort, ...] = ()
    params: tuple[NodeParam, ...] = ()

    def __post_init__(self) -> None:
        if not self.node_type_id.startswith(PREFIX):
            raise ValueError(f"node_type_id is {self.node_type_id!r}; it must begin with {PREFIX}")
        for names in (self.arguments, tuple(port.name for port in self.outputs)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{self.node_type_id} has {twice[0]!r} twice")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of all inputs, then of all parameters."""
        return (*(port.name for port in self.inputs), *(param.name for param in self.params))

    def output(self, name: str) -> Wire:
        """The type of an output. Raises ValueError."""
        return _socket(self, "output", {port.name: port.type for port in self.outputs}, name)

    def socket(self, name: str) -> Wire:
        """The type that an input takes, or that takes the place of a parameter. Raises ValueError."""
        params = {param.name: SOCKET_OF[param.type] for param in self.params if param.type in SOCKET_OF}
        return _socket(self, "input", params | {port.name: port.type for port in self.inputs}, name)


def may_connect(source: Wire, target: Wire) -> bool:
    """Whether an output of one type may feed an input of another."""
    return source == target or Wire.ANY in (source, target) or (source, target) == (Wire.NUMBER, Wire.CURVE)


def _socket(definition: NodeDefinition, kind: str, known: Mapping[str, Wire], name: str) -> Wire:
    if name not in known:
        listed = ", ".join(known) or "none"
        raise ValueError(f"{definition.node_type_id} has no {kind} {name!r}; it has {listed}")
    return known[name]
