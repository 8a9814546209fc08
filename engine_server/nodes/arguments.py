# SPDX-License-Identifier: Apache-2.0
"""Arguments and results of a node, held to its definition at every call: names, types, ranges, options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from engine_server.diffusion.curves import finite_curve
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.modulation import Modulation
from engine_server.nodes.definition import Kind, NodeDefinition, NodeParam, NodePort, Wire
from engine_server.nodes.types import ClipHandle, Config, ModelHandle, Solver, TextEmbed, VaeHandle
from engine_server.types import Audio, Conditioning, Latent

CLASSES: Mapping[Wire, type | tuple[type, ...]] = {
    Wire.MODEL: ModelHandle,
    Wire.VAE: VaeHandle,
    Wire.CLIP: ClipHandle,
    Wire.AUDIO: Audio,
    Wire.LATENT: Latent,
    Wire.CONDITIONING: Conditioning,
    Wire.CONFIG: Config,
    Wire.TEXT_EMBED: TextEmbed,
    Wire.SOLVER: Solver,
    Wire.DCW: DcwSettings,
    Wire.MODULATION: Modulation,
    Wire.NUMBER: (int, float),
    Wire.TEXT: str,
    Wire.ANY: object,
}
"""What a wire carries; MASK and CURVE carry a number or values per frame."""


def checked_arguments(definition: NodeDefinition, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a node, what was not given at its default. Curves and masks come back as float32 `[T]`, or as numbers.

    Raises ValueError naming the node and the argument: unknown, missing, of another type, outside its range or options.
    """
    name_of = definition.node_type_id
    if unknown := sorted(set(given) - set(definition.arguments)):
        raise ValueError(f"{name_of} takes no {unknown[0]!r}; it takes {', '.join(definition.arguments) or 'nothing'}")
    inputs = {port.name: checked_port(port, given.get(port.name), name_of) for port in definition.inputs}
    params = {param.name: checked_param(param, given.get(param.name), name_of) for param in definition.params}
    return inputs | params


def checked_port(port: NodePort, value: object, node: str) -> Any:
    """The value of an input or an output. Raises ValueError."""
    where = f"{port.name} of {node}"
    if value is None:
        if port.required:
            raise ValueError(f"{where} is missing; a {port.type} is expected")
        return None
    if port.type in (Wire.CURVE, Wire.MASK):
        return _curve(value, where, *((0.0, 1.0) if port.type is Wire.MASK else (None, None)))
    if not isinstance(value, CLASSES[port.type]):
        raise ValueError(f"{where} is a {type(value).__name__}; a {port.type} is expected")
    return value


def checked_param(param: NodeParam, value: object, node: str) -> Any:
    """The value of a parameter, its default for None, which may be None too. Raises ValueError."""
    where = f"{param.name} of {node}"
    value = param.default if value is None else value
    return None if value is None else _KINDS[param.type](param, value, where)


def _number(param: NodeParam, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}; a finite number is expected")
    return float(_in_range(param, value, where))


def _integer(param: NodeParam, value: Any, where: str) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise ValueError(f"{where} is {value!r}; a whole number is expected")
    return int(_in_range(param, value, where))


def _curve_param(param: NodeParam, value: Any, where: str) -> float | Tensor:
    if isinstance(value, int | float):
        return _number(param, value, where)
    return _curve(value, where, param.min, param.max)


def _boolean(param: NodeParam, value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}; True or False is expected")
    return value


def _string(param: NodeParam, value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {value!r}; text is expected")
    return value


def _select(param: NodeParam, value: Any, where: str) -> str:
    if value not in param.options:
        raise ValueError(f"{where} is {value!r}; one of {', '.join(param.options)} is expected")
    return str(value)


def _any(param: NodeParam, value: Any, where: str) -> Any:
    return value


_KINDS: Mapping[Kind, Callable[[NodeParam, Any, str], Any]] = {
    Kind.STRING: _string,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.SELECT: _select,
    Kind.CURVE: _curve_param,
    Kind.ANY: _any,
}


def _in_range(param: NodeParam, value: float, where: str) -> float:
    low = -math.inf if param.min is None else param.min
    high = math.inf if param.max is None else param.max
    if not low <= value <= high:
        raise ValueError(f"{where} is {value}; {low:.10g} to {high:.10g} is expected")
    return value


def _curve(value: Any, where: str, low: float | None, high: float | None) -> Tensor:
    curve = finite_curve(value, name=where, lo=low, hi=high)
    if curve.shape[2] != 1:
        raise ValueError(f"{where} has shape {tuple(curve.shape)}; one value per frame is expected")
    return curve[0, :, 0].clone()  # the node's own: the caller may go on drawing
