# SPDX-License-Identifier: Apache-2.0
"""The contract between the plugin and the engine server. `SPEC.md` is normative; this package is its Python side."""

PROTOCOL_VERSION = 3
DEFAULT_ENDPOINT = "tcp://127.0.0.1:47800"
