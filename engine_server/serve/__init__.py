# SPDX-License-Identifier: Apache-2.0
"""The ZeroMQ server: sockets, limits, and the thread that drives the engine."""
