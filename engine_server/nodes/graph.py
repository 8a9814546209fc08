# SPDX-License-Identifier: Apache-2.0
"""Nodes wired together and executed in order.

with Graph() as graph:
    graph.add("acestep.LoadModel", "load")
    graph.add("acestep.EmptyLatent", "silence", duration=4.0)
    graph.connect("load", "model", "silence", "model")
    latent = graph.run()["silence"]["latent"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from types import TracebackType
from typing import Any

from engine_server.nodes.node import Node, node_type, validate_connection


@dataclass
class _Placed:
    """A node, what it was given by hand, and where the rest comes from: (node, output) by input."""

    node: Node
    values: dict[str, Any]
    wires: dict[str, tuple[str, str]] = field(default_factory=dict)


class Graph:
    """See the module. One thread.

    Nothing is remembered from run to run but what a node itself keeps (LoadModel its session, StreamDenoise its stream), so that
    a second run hears every change.
    """

    def __init__(self) -> None:
        self._placed: dict[str, _Placed] = {}

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, node_type_id: str, name: str, **values: Any) -> Node:
        """Place a node under a name of its own, with values for its parameters and for inputs that no wire feeds.

        Raises ValueError for an unknown type, a name that is taken, or a value that the node does not take.
        """
        if name in self._placed:
            raise ValueError(f"there is a node {name!r} already")
        placed = _Placed(node_type(node_type_id)(), {})
        _check_names(placed, values)
        placed.values = dict(values)
        self._placed[name] = placed
        return placed.node

    def set(self, name: str, **values: Any) -> None:
        """Change values of a node for the runs to come; None puts a parameter back to its default. Raises ValueError."""
        placed = self._find(name)
        _check_names(placed, values)
        placed.values |= values

    def connect(self, source: str, output: str, target: str, input_name: str) -> None:
        """Feed an input or parameter of a node from an output. Raises ValueError where that cannot be."""
        giver, taker = self._find(source), self._find(target)
        fits, reason = validate_connection(
            giver.node.definition.node_type_id, output, taker.node.definition.node_type_id, input_name
        )
        if not fits:
            raise ValueError(reason)
        if input_name in taker.wires or input_name in taker.values:
            raise ValueError(f"{input_name} of {target!r} has a value already")
        taker.wires[input_name] = (source, output)
        try:
            self._order()
        except ValueError:
            del taker.wires[input_name]
            raise

    def run(self) -> dict[str, dict[str, Any]]:
        """Execute every node once: the outputs of all, by node and output.

        A node that a required input gets None from (a stream that has not finished anything) is left out, and gives None itself.
        Raises ValueError before anything is executed if a required input has neither wire nor value, and what nodes raise.
        """
        order = self._order()
        for name in order:
            _check_complete(name, self._placed[name])
        results: dict[str, dict[str, Any]] = {}
        for name in order:
            placed = self._placed[name]
            wired = {to: results[source][output] for to, (source, output) in placed.wires.items()}
            definition = placed.node.definition
            if any(port.required and port.name in wired and wired[port.name] is None for port in definition.inputs):
                results[name] = {port.name: None for port in definition.outputs}
            else:
                results[name] = placed.node(**placed.values, **wired)
        return results

    def close(self) -> None:
        """Close all nodes, last in order first. May be called again."""
        for name in reversed(self._order()):
            self._placed[name].node.close()

    def _find(self, name: str) -> _Placed:
        if name not in self._placed:
            raise ValueError(f"there is no node {name!r}; there are {', '.join(self._placed) or 'none'}")
        return self._placed[name]

    def _order(self) -> list[str]:
        needs: Mapping[str, set[str]] = {
            name: {source for source, _ in placed.wires.values()} for name, placed in self._placed.items()
        }
        try:
            return list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            raise ValueError(f"nodes feed themselves: {' <- '.join(error.args[1])}") from error


def _check_names(placed: _Placed, values: Mapping[str, Any]) -> None:
    definition = placed.node.definition
    if unknown := sorted(set(values) - set(definition.arguments)):
        taken = ", ".join(definition.arguments) or "nothing"
        raise ValueError(f"{definition.node_type_id} takes no {unknown[0]!r}; it takes {taken}")
    if wired := sorted(set(values) & set(placed.wires)):
        raise ValueError(f"{wired[0]} of {definition.node_type_id} is fed by a wire")


def _check_complete(name: str, placed: _Placed) -> None:
    for port in placed.node.definition.inputs:
        if port.required and port.name not in placed.wires and placed.values.get(port.name) is None:
            raise ValueError(f"{port.name} of {name!r} is missing; a {port.type} is expected")
