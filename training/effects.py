# SPDX-License-Identifier: Apache-2.0
"""The colour of a take: its tone (dark, bright or neither) and its room (hall, dry or a little of one).

Filters are minimum-phase and the direct sound keeps its place, so takes of a piece stay aligned to the sample.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from scipy import fft

TONES, ROOMS = ("dark", "bright"), ("hall", "dry")
NEUTRAL_SHARE = 0.5  # of the takes that have no colour word
TONE_ONLY_SHARE, ROOM_ONLY_SHARE = 0.36, 0.36  # of the others; what is left has both
HALLS = SMALL_ROOMS = 12  # distinct impulse responses of each kind
HALL_WET, SMALL_WET = (0.25, 0.40), (0.0, 0.10)  # the room's share of the energy
PRE_DELAY_S = 0.008
SHELF_SLOPE = 0.7


def draw_colours(rng: random.Random) -> tuple[str, ...]:
    """At most one of TONES and one of ROOMS; half of the draws are empty."""
    if rng.random() < NEUTRAL_SHARE:
        return ()
    kind = rng.random()
    tone, room = rng.choice(TONES), rng.choice(ROOMS)
    if kind < TONE_ONLY_SHARE:
        return (tone,)
    return (room,) if kind < TONE_ONLY_SHARE + ROOM_ONLY_SHARE else (tone, room)


def apply_colours(audio: np.ndarray, colours: tuple[str, ...], seed: int, sample_rate: int) -> np.ndarray:
    """The audio, float32 [samples, 2], in these colours; the same for the same seed. Same shape, level roughly kept.

    Besides the named colours every take gets a slight tilt and gain of its own. Raises ValueError for an unknown colour.
    """
    if unknown := set(colours) - set(TONES + ROOMS):
        raise ValueError(f"colours holds {sorted(unknown)}; {TONES + ROOMS} are known")
    rng = random.Random(f"demon-colour-{seed}")
    size = _padded_size(len(audio), sample_rate)
    response = _tone_response(colours, rng, size, sample_rate)[:, None]
    room = "hall" if "hall" in colours else "small"
    lowest, highest = HALL_WET if room == "hall" else SMALL_WET
    wet, index = rng.uniform(lowest, highest), rng.randrange(HALLS if room == "hall" else SMALL_ROOMS)
    if "dry" not in colours:
        reflections = _room_response(room, index, size, sample_rate)
        response = response * (math.sqrt(1 - wet) + math.sqrt(wet) * reflections)
    spectrum = fft.rfft(audio.astype(np.float32), size, axis=0)
    return fft.irfft(spectrum * response, size, axis=0)[: len(audio)]


def _padded_size(samples: int, sample_rate: int) -> int:
    """Long enough that no room's tail wraps around to the start."""
    return int(fft.next_fast_len(samples + 3 * sample_rate, real=True))


def _tone_response(colours: tuple[str, ...], rng: random.Random, size: int, sample_rate: int) -> np.ndarray:
    """Transfer function of the tone, the tilt and the gain: complex64 [bins]."""
    tilt_db, gain_db = rng.uniform(-2, 2), rng.uniform(-2, 2)
    delays = _unit_delays(size)
    response = _high_shelf(delays, 1000, tilt_db, sample_rate) * np.float32(10 ** ((gain_db - tilt_db / 2) / 20))
    if "dark" in colours:
        response = response * _low_pass(delays, rng.uniform(1000, 2000), sample_rate)
    if "bright" in colours:
        response = response * _high_shelf(delays, rng.uniform(2200, 3500), rng.uniform(9, 14), sample_rate)
    return response


@lru_cache(maxsize=4)
def _unit_delays(size: int) -> np.ndarray:
    """z^-1 at the bins of a real FFT: complex64 [size // 2 + 1]."""
    return np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size).astype(np.complex64)


def _biquad(delays: np.ndarray, b: tuple[float, float, float], a: tuple[float, float, float]) -> np.ndarray:
    top = b[0] + delays * (b[1] + delays * np.float32(b[2]))
    return top / (a[0] + delays * (a[1] + delays * np.float32(a[2])))


def _low_pass(delays: np.ndarray, frequency: float, sample_rate: int) -> np.ndarray:
    """Second-order Butterworth low-pass (R. Bristow-Johnson's cookbook)."""
    w = 2 * math.pi * frequency / sample_rate
    alpha, cos = math.sin(w) / math.sqrt(2), math.cos(w)
    return _biquad(delays, ((1 - cos) / 2, 1 - cos, (1 - cos) / 2), (1 + alpha, -2 * cos, 1 - alpha))


def _high_shelf(delays: np.ndarray, frequency: float, gain_db: float, sample_rate: int) -> np.ndarray:
    """Second-order high shelf (R. Bristow-Johnson's cookbook)."""
    w, amp = 2 * math.pi * frequency / sample_rate, 10 ** (gain_db / 40)
    cos = math.cos(w)
    alpha = math.sin(w) / 2 * math.sqrt((amp + 1 / amp) * (1 / SHELF_SLOPE - 1) + 2)
    edge = 2 * math.sqrt(amp) * alpha
    b = (amp * (amp + 1 + (amp - 1) * cos + edge), -2 * amp * (amp - 1 + (amp + 1) * cos),
         amp * (amp + 1 + (amp - 1) * cos - edge))  # fmt: skip
    a = (amp + 1 - (amp - 1) * cos + edge, 2 * (amp - 1 - (amp + 1) * cos), amp + 1 - (amp - 1) * cos - edge)
    return _biquad(delays, b, a)


@lru_cache(maxsize=HALLS + SMALL_ROOMS + 4)
def _room_response(room: str, index: int, size: int, sample_rate: int) -> np.ndarray:
    """Spectrum of decaying stereo noise of unit energy, the highs dying first: complex64 [bins, 2]."""
    rng = np.random.default_rng((index, room == "hall"))
    low_s, high_share = (rng.uniform(1.4, 2.6), 0.4) if room == "hall" else (rng.uniform(0.25, 0.6), 0.6)
    times = np.arange(round(min(low_s, 2.5) * sample_rate)) / sample_rate
    noise = rng.standard_normal((2, len(times), 2))
    smooth = fft.irfft(fft.rfft(noise[0], axis=0) * _dull(len(times), sample_rate), len(times), axis=0)
    decay = math.log(1000)  # 60 dB within the reverberation time
    low = smooth * np.exp(-decay * times / low_s)[:, None]
    high = 0.3 * noise[1] * np.exp(-decay * times / (low_s * high_share))[:, None]
    tail = (low + high) * np.minimum(times / 0.005, 1)[:, None]
    tail /= np.sqrt((tail**2).sum(0))
    delayed = np.pad(tail, ((round(PRE_DELAY_S * sample_rate), 0), (0, 0))).astype(np.float32)
    return fft.rfft(delayed, size, axis=0)


def _dull(samples: int, sample_rate: int) -> np.ndarray:
    """Weights that fade above 2 kHz: [bins, 1]."""
    return 1 / (1 + (fft.rfftfreq(samples, 1 / sample_rate) / 2000) ** 2)[:, None]
