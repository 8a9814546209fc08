# SPDX-License-Identifier: Apache-2.0
"""The node graph: the Session's primitives as typed nodes. See docs/nodes.md."""

from engine_server.nodes import audio_info, codec, conditioning, curves, denoise, diffusion, latents, models
from engine_server.nodes.graph import Graph
from engine_server.nodes.node import NODE_TYPES, Node, node_type, validate_connection

__all__ = [
    "NODE_TYPES",
    "Graph",
    "Node",
    "audio_info",
    "codec",
    "conditioning",
    "curves",
    "denoise",
    "diffusion",
    "latents",
    "models",
    "node_type",
    "validate_connection",
]
