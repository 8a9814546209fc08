# SPDX-License-Identifier: Apache-2.0
"""How far apart latents are."""

from __future__ import annotations

from engine_server.types import Latent
from training.evaluation.spectra import rms


def latent_distance(a: Latent, b: Latent) -> float:
    """RMS difference of two latents of one length."""
    return rms(a.frames - b.frames)
