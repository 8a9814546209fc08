# SPDX-License-Identifier: Apache-2.0
"""DEMON Bridge's engine: a streaming diffusion engine for music over ACE-Step v1.5, and the server a plugin talks to."""

__version__ = "0.1.0"
