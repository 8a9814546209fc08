# SPDX-License-Identifier: Apache-2.0
"""DEMON Bridge's engine: a streaming diffusion engine for music over ACE-Step v1.5, and the server a plugin talks to."""

import os

# Without it MKL's products of few columns round a row by its place in the batch on some processors (Intel with AVX-512),
# and a track's bits would depend on its neighbours. It is read at the first product: later settings do nothing.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"
