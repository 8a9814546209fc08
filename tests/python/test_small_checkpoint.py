# SPDX-License-Identifier: Apache-2.0
"""The small trained checkpoint of the tests: what only trained weights can show, in seconds."""

from __future__ import annotations

import pytest
import torch

from engine_server.session import Session
from engine_server.types import Latent
from examples.common import music

SIZE_LIMIT_BYTES = 7_000_000


@pytest.fixture(scope="module")
def session(trained_folder):
    with Session(str(trained_folder)) as session:
        yield session


@pytest.fixture(scope="module")
def source(session):
    return session.prepare_source(music("pair_piano_8s"))


def distance(a: Latent, b: Latent) -> float:
    """Root mean square of the difference."""
    return float((a.frames - b.frames).square().mean().sqrt())


def chroma(audio: torch.Tensor) -> torch.Tensor:
    """Magnitudes from 100 Hz to 2 kHz by time and semitone, `[semitones, T]`, of `[2, S]` at 48 kHz."""
    spectrum = torch.stft(audio.mean(0), 8192, 1920, window=torch.hann_window(8192), return_complex=True).abs()
    hz = torch.arange(1, len(spectrum)) * 48000 / 8192
    semitone = torch.round(12 * torch.log2(hz / 100)).long()
    inside = (semitone >= 0) & (semitone < 52)
    return torch.zeros(52, spectrum.shape[1]).index_add_(0, semitone[inside], spectrum[1:][inside])


def alike(a: torch.Tensor, b: torch.Tensor) -> float:
    """Correlation of two pictures of notes."""
    return float(torch.corrcoef(torch.stack([chroma(a).flatten(), chroma(b).flatten()]))[0, 1])


def test_it_is_small_and_complete(trained_folder):
    weights = [path for path in trained_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in weights) < SIZE_LIMIT_BYTES
    assert {"vae", "transformer", "condition_encoder", "text_encoder"} <= {path.parent.name for path in weights}


def test_the_codec_keeps_the_notes(session, source):
    heard = session.decode_full(source.latent).waveform
    own, other = (alike(music(name).waveform, heard) for name in ("pair_piano_8s", "van_theme_12s"))
    assert own > 0.45
    assert own > 2 * other


def test_more_denoise_goes_farther(session, source):
    words = session.encode_text(tags="strings")
    made = [session.generate(conditioning=words, source=source, denoise=d, seed=3) for d in (0.0, 0.3, 0.6, 1.0)]
    apart = [distance(result, source.latent) for result in made]
    assert apart[0] == 0.0
    assert apart == sorted(apart)
    assert apart[-1] > 0.3


def test_finer_steps_converge(session, source):
    """What a small model makes in many steps is what it makes in few: no correction may add up to noise."""
    words = session.encode_text(tags="strings")
    few, many = (session.generate(conditioning=words, source=source, seed=3, steps=steps) for steps in (8, 32))
    other = session.generate(conditioning=words, source=source, seed=4, steps=8)
    assert distance(few, many) < 0.7 * distance(few, other)
    assert alike(*(session.decode_full(result).waveform for result in (few, many))) > 0.9


def test_a_cover_keeps_the_notes(session, source):
    cover = session.generate(conditioning=session.encode_text(tags="organ"), source=source, seed=3)
    heard = session.decode_full(cover).waveform
    before = session.decode_full(source.latent).waveform
    shifted = before.roll(48000, dims=1)
    assert alike(before, heard) > 1.5 * max(alike(shifted, heard), 0.1)
