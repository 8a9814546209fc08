# SPDX-License-Identifier: Apache-2.0
"""Pure mathematics of the ring and the step, torch only; knows nothing of models."""

from engine_server.vector_math import choose_kernels

choose_kernels()
