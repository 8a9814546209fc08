# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, conditioning, the DiT forward and the codec; knows nothing of tracks."""

from engine_server.vector_math import choose_kernels

choose_kernels()
