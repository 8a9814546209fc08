# SPDX-License-Identifier: Apache-2.0
"""Nodes as classes, found by id: a definition, and an `execute` of a few lines over the functions of the other packages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from engine_server.nodes.arguments import checked_arguments, checked_param, checked_port
from engine_server.nodes.definition import NodeDefinition, NodeParam, NodePort, may_connect

NODE_TYPES: dict[str, type[Node]] = {}
"""All types of nodes by their id."""


class Node:
    """One node. `execute` takes every input and parameter by name and returns its output, or a tuple of its outputs.

    One thread. Nodes keep nothing between calls unless their description says so.
    """

    definition: ClassVar[NodeDefinition]
    execute: Callable[..., Any]

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Outputs by name. Raises ValueError for arguments that the definition does not allow, and what `execute` raises."""
        outputs = self.definition.outputs
        result = self.execute(**checked_arguments(self.definition, given))
        values = result if len(outputs) > 1 else (result,)
        return {
            port.name: checked_port(port, value, self.definition.node_type_id)
            for port, value in zip(outputs, values, strict=True)
        }

    def close(self) -> None:
        """Let go of what is kept between calls. May be called again."""


AnyNode = TypeVar("AnyNode", bound=Node)


def node(
    name: str,
    category: str,
    description: str,
    *,
    inputs: tuple[NodePort, ...] = (),
    outputs: tuple[NodePort, ...] = (),
    params: tuple[NodeParam, ...] = (),
) -> Callable[[type[AnyNode]], type[AnyNode]]:
    """Register a class as the node type `acestep.<class name>`, with this definition.

    Raises ValueError if `execute` does not take exactly what is declared, if a default breaks its own rules, and for a second
    class of one name.
    """

    def register(kind: type[AnyNode]) -> type[AnyNode]:
        definition = NodeDefinition(f"acestep.{kind.__name__}", name, category, description, inputs, outputs, params)
        if definition.node_type_id in NODE_TYPES:
            raise ValueError(f"{definition.node_type_id} is registered already")
        _check_signature(definition, kind)
        for param in params:
            checked_param(param, None, definition.node_type_id)
        kind.definition = definition
        NODE_TYPES[definition.node_type_id] = kind
        return kind

    return register


def node_type(node_type_id: str) -> type[Node]:
    """The class of an id. Raises ValueError listing those that exist."""
    if node_type_id not in NODE_TYPES:
        raise ValueError(f"there is no node {node_type_id!r}; there are {', '.join(sorted(NODE_TYPES))}")
    return NODE_TYPES[node_type_id]


def validate_connection(src_type: str, src_port: str, dst_type: str, dst_port: str) -> tuple[bool, str]:
    """Whether an output of one type of node may feed an input or parameter of another; if not, why."""
    try:
        given = node_type(src_type).definition.output(src_port)
        wanted = node_type(dst_type).definition.socket(dst_port)
    except ValueError as error:
        return False, str(error)
    if may_connect(given, wanted):
        return True, ""
    return False, f"{src_port} of {src_type} is a {given}; {dst_port} of {dst_type} takes a {wanted}"


def _check_signature(definition: NodeDefinition, kind: type[Node]) -> None:
    taken: Mapping[str, inspect.Parameter] = inspect.signature(kind.execute).parameters
    takes_rest = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    named = {name for name, each in taken.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    declared = set(definition.arguments)
    if undeclared := sorted(named - declared):
        raise ValueError(f"{definition.node_type_id} reads {undeclared[0]!r}, which it does not declare")
    if unread := sorted(set() if takes_rest else declared - named):
        raise ValueError(f"{definition.node_type_id} declares {unread[0]!r}, which it does not read")
