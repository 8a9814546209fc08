# SPDX-License-Identifier: Apache-2.0
"""How well the notes of one recording are heard in another, by basic-pitch's polyphonic note model (Apache-2.0).

The wheel of basic-pitch holds the model as ONNX; nothing of its Python code is used, and it wants no TensorFlow here.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.spectra import SAMPLE_RATE, mono

MODEL_RATE = 22_050
WINDOW = 43_844
"""Samples that the model takes at once."""
FRAME = 256
"""Samples of a frame of its answer: 86 frames per second."""
OVERLAP_FRAMES = 30
"""Frames by which windows overlap; half of them at each end of an answer are thrown away."""
NOTE_OUTPUT = "StatefulPartitionedCall:1"
THRESHOLD = 0.35
"""Posterior above which a note sounds."""
TOLERANCE_FRAMES = 2

Posterior = NDArray[np.float32]
"""Probability of each piano key per frame, `[frames, 88]`."""


class MissingModelError(RuntimeError):
    """basic-pitch's model is not installed; the message says how to install it."""


@cache
def _session() -> Any:
    spec = find_spec("basic_pitch")
    model = Path(spec.origin).parent / "saved_models/icassp_2022/nmp.onnx" if spec and spec.origin else None
    if model is None or not model.exists() or find_spec("onnxruntime") is None:
        raise MissingModelError(
            "note figures need onnxruntime and basic-pitch's model: "
            "pip install onnxruntime && pip install --no-deps basic-pitch==0.4.0"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def note_posterior(audio: Tensor) -> Posterior:
    """What the model hears in the mono mix of `[2, S]`: `[frames, 88]`. Raises MissingModelError."""
    session = _session()
    signal = soxr.resample(mono(audio).cpu().numpy(), SAMPLE_RATE, MODEL_RATE).astype(np.float32)
    frames = max(1, len(signal) // FRAME)
    margin = OVERLAP_FRAMES // 2
    step = WINDOW - OVERLAP_FRAMES * FRAME
    padded = np.pad(signal, (margin * FRAME, WINDOW))
    name = session.get_inputs()[0].name
    parts = []
    for start in range(0, len(signal), step):
        (notes,) = session.run([NOTE_OUTPUT], {name: padded[start : start + WINDOW].reshape(1, WINDOW, 1)})
        parts.append(notes[0, margin:-margin])
    posterior: Posterior = np.concatenate(parts)[:frames]
    return posterior


def posterior_f1(reference: Posterior, other: Posterior) -> float:
    """Frame-level F1 of the cells (frame, pitch) above 0.35, a cell counting as found up to 2 frames (23 ms) away.

    Two recordings without any note agree: 1.
    """
    frames = min(len(reference), len(other))
    a, b = reference[:frames] > THRESHOLD, other[:frames] > THRESHOLD
    if not a.any() and not b.any():
        return 1.0
    precision = (b & _widened(a)).sum() / max(1, b.sum())
    recall = (a & _widened(b)).sum() / max(1, a.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


def note_f1(reference: Tensor, other: Tensor) -> float:
    """`posterior_f1` of two recordings `[2, S]`. Raises MissingModelError."""
    return posterior_f1(note_posterior(reference), note_posterior(other))


def _widened(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    wide = cells.copy()
    for shift in range(1, TOLERANCE_FRAMES + 1):
        wide[shift:] |= cells[:-shift]
        wide[:-shift] |= cells[shift:]
    return wide
