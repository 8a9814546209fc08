# SPDX-License-Identifier: Apache-2.0
"""Figures of a codec: what encoding and decoding does to music."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine_server.model.codec import Codec
from engine_server.model.windows import decode_full, decode_window, encode_full
from training.evaluation.buzz import buzz
from training.evaluation.notes import note_f1
from training.evaluation.partials import chord, measure_partials
from training.evaluation.spectra import SAMPLE_RATE, log_mel_distance, log_spectral_distance_db, mono, rms, same_length
from training.evaluation.stereo import stereo_error

LOW_HZ = 1000.0
WINDOW_FRAMES = 25
SILENCE_S = 2.0


@torch.no_grad()
def reconstruct(codec: Codec, audio: Tensor) -> Tensor:
    """`[2, S]` encoded and decoded, cut to S samples."""
    return decode_full(codec, encode_full(codec, audio))[:, : audio.shape[1]]


def codec_metrics(codec: Codec, audio: Tensor) -> dict[str, float]:
    """All figures of a codec on a piece `[2, S]` at 48 kHz, a few seconds or more; see `compare` and `window_error`."""
    return {**compare(audio, reconstruct(codec, audio)), "window_error": window_error(codec, audio)}


def compare(original: Tensor, reconstruction: Tensor) -> dict[str, float]:
    """Figures of a reconstruction `[2, S]` against its original.

    note_f1: see `notes.note_f1`. log_mel_nat, lsd_db: see `spectra`. si_sdr_db, si_sdr_low_db: scale-invariant signal to
    distortion ratio of the mono mix, whole and below 1 kHz. level_db: loudness gained. ild_error_db, coherence_error:
    see `stereo`. buzz_energy_db, buzz_line_db: see `buzz`.
    """
    a, b = same_length(original, reconstruction)
    stereo, frames = stereo_error(a, b), buzz(a, b)
    return {
        "note_f1": note_f1(a, b),
        "log_mel_nat": log_mel_distance(a, b),
        "lsd_db": log_spectral_distance_db(a, b),
        "si_sdr_db": si_sdr_db(mono(a), mono(b)),
        "si_sdr_low_db": si_sdr_db(below(mono(a), LOW_HZ), below(mono(b), LOW_HZ)),
        "level_db": 20 * math.log10((rms(b) + 1e-7) / (rms(a) + 1e-7)),
        "ild_error_db": stereo.level_difference_db,
        "coherence_error": stereo.coherence,
        "buzz_energy_db": frames["energy_db"],
        "buzz_line_db": frames["line_db"],
    }


def chord_metrics(codec: Codec) -> dict[str, float]:
    """Figures of the partials of `partials.chord`, through the codec.

    partials_right: share of the isolated partials that are there, within 1 %. partial_error_pct: the largest error of
    frequency among those that are there, in percent. unsteadiness_db: median over partials of the standard deviation
    of their level. buzz_line_db: as in `compare`; a chord that stands still shows it best.
    """
    original = chord()
    heard = reconstruct(codec, original)
    partials = measure_partials(heard)
    present = [100 * partial.error for partial in partials if partial.is_there]
    return {
        "partials_right": sum(partial.is_right for partial in partials) / len(partials),
        "partial_error_pct": max(present, default=100.0),
        "unsteadiness_db": float(torch.tensor([partial.unsteadiness_db for partial in partials]).median()),
        "buzz_line_db": buzz(original, heard)["line_db"],
    }


@torch.no_grad()
def window_error(codec: Codec, audio: Tensor) -> float:
    """Largest difference between one second decoded as a window in the middle of a piece, and that second of the whole."""
    latents = encode_full(codec, audio)
    first = max(0, (len(latents) - WINDOW_FRAMES) // 2) | 1  # odd: on no grid of the codec's
    count = min(WINDOW_FRAMES, len(latents) - first)
    whole = decode_full(codec, latents)[:, first * codec.hop : (first + count) * codec.hop]
    return float((decode_window(codec, latents, first, count) - whole).abs().max())


def silence_peak(codec: Codec) -> float:
    """Largest sample that the codec makes of two seconds of digital silence."""
    return float(reconstruct(codec, torch.zeros(2, round(SILENCE_S * SAMPLE_RATE))).abs().max())


def si_sdr_db(original: Tensor, other: Tensor) -> float:
    """Scale-invariant signal to distortion ratio of `[S]`, held to [-60, 100] dB."""
    scale = (original * other).sum() / original.square().sum().clamp_min(1e-12)
    wanted = scale * original
    ratio = wanted.square().sum() / (other - wanted).square().sum().clamp_min(1e-12)
    return float((10 * torch.log10(ratio.clamp_min(1e-9))).clamp(-60, 100))


def below(signal: Tensor, limit_hz: float) -> Tensor:
    """`[S]` without what lies above a frequency, cut off sharply."""
    spectrum = torch.fft.rfft(signal)
    spectrum[math.ceil(limit_hz / SAMPLE_RATE * len(signal)) :] = 0
    return torch.fft.irfft(spectrum, len(signal))
