# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as a TensorRT network. Needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_protocol.errors import DemonError
from trt_engines.onnx_files import read_model
from trt_engines.tensorrt_library import TensorRt, load_tensorrt


@dataclass(frozen=True)
class ParsedNetwork:
    """A network, with all that must live as long as it."""

    library: TensorRt
    builder: Any
    network: Any
    parser: Any
    """Owns the weights that the network points to."""

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by name, -1 where dynamic."""
        tensors = (self.network.get_input(index) for index in range(self.network.num_inputs))
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    def constants(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the constants, by the name that the ONNX file has for them or TensorRT gave them.

        A refittable engine of this network takes new weights under these names.
        """
        kind = self.library.module
        layers = (self.network.get_layer(index) for index in range(self.network.num_layers))
        return {
            layer.name: tuple(layer.get_output(0).shape) for layer in layers if layer.type == kind.LayerType.CONSTANT
        }


def parse_network(path: Path) -> ParsedNetwork:
    """Parse into a strongly typed network: TensorRT then computes in the types that the file says, and no others.

    Raises DemonError: `E_BACKEND` without TensorRT, `E_ONNX` for a file that is not whole or that TensorRT does not take, with
    every complaint of its parser.
    """
    library = load_tensorrt()
    read_model(path)
    trt = library.module
    builder = trt.Builder(library.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    library.errors.clear()
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}" for error in errors)
        raise DemonError(
            "E_ONNX", f"{library.name} {library.version} does not take {path}: {said or library.take_errors()}"
        )
    return ParsedNetwork(library, builder, network, parser)
