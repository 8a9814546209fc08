# SPDX-License-Identifier: Apache-2.0
"""Correction in the wavelet domain after each step: the state moves away from the model's clean estimate, band by band.

`x` `[R, T, C]` is the state after a step, `y` the model's clean estimate before it, `t` `[R, 1, 1]` the level the step started
from. One level of a wavelet transform along time splits both into a low and a high band of K coefficients; a corrected band
becomes `b + weight * (b - b_y)`, with weight `t * scaler` in the low and `(1 - t) * scaler` in the high band.

Settings are data, a plan is their tables for R rows on one device, and `apply_dcw` is one pure vectorised call. Rows never
mix: a row's bits follow from that row and its settings, and a row whose correction is off keeps its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine_server.diffusion.curves import canonical_curve
from engine_server.diffusion.dcw_settings import DcwSettings
from engine_server.diffusion.upload import upload
from engine_server.diffusion.wavelets import FilterBank, Wavelet, analyse, synthesise

HAAR: Final = Wavelet.named("haar")


@dataclass(frozen=True)
class AdvancedTables:
    """Rows of a band pass that are corrected by more than the plain difference. All `[R | 1, 1, 1, 1]`."""

    rows: Tensor | None
    """bool; None: every row of the pass's plan."""
    mult_blend: Tensor
    mag_phase: Tensor
    soft_thresh: Tensor
    analytic_gain: Tensor | None
    """`[K, 1]`, per frequency; None where no row corrects magnitude and phase."""


@dataclass(frozen=True)
class BandPass:
    """Rows that share one wavelet and need its transform."""

    bank: FilterBank
    rows: Tensor | None
    """`[R | 1, 1, 1]` bool; None: all."""
    weights: Tensor
    """`[R | 1, 2, 1 | K, 1]`, before the factors of `t`."""
    corrected: Tensor
    """`[R | 1, 2, 1, 1]` bool."""
    advanced: AdvancedTables | None


@dataclass(frozen=True)
class DcwPlan:
    """What a step reads, for R rows or for any number of equal rows, on one device. Immutable; any thread may use it."""

    active: Tensor | None
    """`[R, 1, 1]` bool; None: every row is corrected."""
    frame_weights: Tensor | None
    """`[R | 1, 3, 1 | T, 1]` of the rows that need no transform (plain Haar, and pix), zero in other rows; None: no such row.

    Half the low and half the high band's weight, at both frames of a pair and before the factors of `t`; then pix's.
    """
    band_passes: tuple[BandPass, ...]


def plan_dcw(
    settings: Sequence[DcwSettings | None], frames: int, *, device: str | torch.device = "cpu"
) -> DcwPlan | None:
    """The tables for rows with these settings (None: off), or None when no row is corrected.

    One entry serves any number of rows. Raises ValueError for a curve of mode pix that has neither 1 value nor T. Runs when
    settings or rows change, never inside a step.
    """
    rows = [entry if entry is not None and entry.is_active else None for entry in settings]
    in_frames = [entry if entry is not None and _needs_no_transform(entry) else None for entry in rows]
    by_wavelet: dict[Wavelet, list[DcwSettings | None]] = {}
    for place, entry in enumerate(rows):
        if entry is not None and in_frames[place] is None:
            by_wavelet.setdefault(Wavelet.named(entry.wavelet), [None] * len(rows))[place] = entry
    if not any(rows):
        return None
    frame_weights = _stacked(in_frames, lambda entry: _frame_weights(entry, frames), device)
    return DcwPlan(
        active=_row_mask([entry is not None for entry in rows], device),
        frame_weights=frame_weights if any(in_frames) else None,
        band_passes=tuple(_band_pass(wavelet, chosen, frames, device) for wavelet, chosen in by_wavelet.items()),
    )


def apply_dcw(plan: DcwPlan, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """The corrected state `[R, T, C]`; `x`, `y` `[R, T, C]` float32, `t` `[R, 1, 1]`. Pure; waits for no device."""
    result = x if plan.frame_weights is None else _corrected_frames(plan.frame_weights, x, y, t)
    for band_pass in plan.band_passes:
        result = _choose(band_pass.rows, _corrected_bands(band_pass, x, y, t), result)
    return _choose(plan.active, result, x)


def _corrected_frames(weights: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Haar and pix in closed form.

    With d = x - y and a pair of frames (a, b), the low band's share of the correction is its weight times the mean of d at
    both, the high band's its weight times half the difference, negated at b. So each frame takes its own d times
    `(low + high) / 2` and its partner's times `(low - high) / 2`; pix is its own d only, and so is an odd last frame.
    """
    difference = x - y
    low, high = t * weights[:, 0], (1.0 - t) * weights[:, 1]
    result = (low + high + weights[:, 2]) * difference
    result += x
    pairs = x.shape[1] // 2
    partner = difference[:, : 2 * pairs].view(x.shape[0], pairs, 2, x.shape[2]).flip(2).flatten(1, 2)
    partner *= (low - high)[:, : 2 * pairs]
    result[:, : 2 * pairs] += partner
    return result


def _corrected_bands(band_pass: BandPass, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """There and back through the transform; meaningless in a row that is not the pass's."""
    bands, estimate = analyse(band_pass.bank, x), analyse(band_pass.bank, y)
    weights = band_pass.weights * torch.cat([t, 1.0 - t], dim=1)[..., None]
    corrected = bands + weights * (bands - estimate)
    if band_pass.advanced is not None:
        moved = _advanced(band_pass.advanced, bands, estimate, weights)
        moved = torch.where(band_pass.corrected, moved, bands)
        corrected = _choose(band_pass.advanced.rows, moved, corrected)
    return synthesise(band_pass.bank, corrected, x.shape[1])


def _advanced(tables: AdvancedTables, bands: Tensor, estimate: Tensor, weights: Tensor) -> Tensor:
    """Soft threshold, multiplicative share, then magnitude and phase, of bands `[R, 2, K, C]`."""
    difference = bands - estimate
    sign = difference.sign()
    shrunk = sign * (difference.abs() - tables.soft_thresh).clamp(min=0.0)
    moved = bands + weights * shrunk
    blend = tables.mult_blend
    moved = torch.where(blend > 0, (1.0 - blend) * moved + blend * (bands * (1.0 + weights * sign)), moved)
    if tables.analytic_gain is None:
        return moved
    signal, target = _analytic(bands, tables.analytic_gain), _analytic(estimate, tables.analytic_gain)
    magnitude = signal.abs() + weights * (signal.abs() - target.abs())
    phase = _phase(signal) + weights * _phase(signal / (target + 1e-8))
    share = tables.mag_phase
    return torch.where(share > 0, (1.0 - share) * moved + share * magnitude * phase.cos(), moved)


def _analytic(bands: Tensor, gain: Tensor) -> Tensor:
    """The analytic signal along the band axis: the spectrum without its negative frequencies."""
    signal: Tensor = torch.fft.ifft(torch.fft.fft(bands, dim=2) * gain, dim=2)
    return signal


def _phase(signal: Tensor) -> Tensor:
    """The angle of a complex tensor, float32.

    Taken in float64: vector and scalar code round a float32 arc tangent differently, and a value's place in the batch would
    decide which of them computes it.
    """
    return torch.atan2(signal.imag.double(), signal.real.double()).float()


def _analytic_gain(length: int) -> Tensor:
    """`[K, 1]`: 1 at frequency 0 and, for even K, at Nyquist; 2 above 0; 0 below."""
    gain = torch.zeros(length, 1)
    gain[0] = 1.0
    gain[1 : (length + 1) // 2] = 2.0
    if length % 2 == 0:
        gain[length // 2] = 1.0
    return gain


def _needs_no_transform(entry: DcwSettings) -> bool:
    return entry.mode == "pix" or (Wavelet.named(entry.wavelet) == HAAR and not entry.is_advanced)


def _frame_weights(entry: DcwSettings | None, frames: int) -> Tensor:
    """One row of `DcwPlan.frame_weights`."""
    if entry is None:
        return torch.zeros(1, 3, 1, 1)
    if entry.mode == "pix":
        return pad(canonical_curve(entry.scaler, frames, name="scaler")[:, None], (0, 0, 0, 0, 2, 0))
    halves = 0.5 * entry.band_weights(HAAR.band_length(frames))
    if halves.shape[2] > 1:
        halves = halves.repeat_interleave(2, dim=2)[:, :, :frames]
    return pad(halves, (0, 0, 0, 0, 0, 1))


def _band_weights(entry: DcwSettings | None, length: int) -> Tensor:
    """One row of `BandPass.weights`."""
    return torch.zeros(1, 2, 1, 1) if entry is None else entry.band_weights(length)


def _band_pass(
    wavelet: Wavelet, rows: Sequence[DcwSettings | None], frames: int, device: str | torch.device
) -> BandPass:
    """`rows`: the settings of the pass's rows, None in the others."""
    length = wavelet.band_length(frames)
    corrected = [(False, False) if entry is None else entry.corrected_bands for entry in rows]
    return BandPass(
        bank=FilterBank.of(wavelet, device),
        rows=_row_mask([entry is not None for entry in rows], device),
        weights=_stacked(rows, lambda entry: _band_weights(entry, length), device),
        corrected=upload(torch.tensor(corrected), device)[:, :, None, None],
        advanced=_advanced_tables(rows, length, device),
    )


def _advanced_tables(
    rows: Sequence[DcwSettings | None], length: int, device: str | torch.device
) -> AdvancedTables | None:
    is_advanced = [entry is not None and entry.is_advanced for entry in rows]
    if not any(is_advanced):
        return None

    def fader(value: Callable[[DcwSettings], float]) -> Tensor:
        values = [0.0 if entry is None else value(entry) for entry in rows]
        return upload(torch.tensor(values, dtype=torch.float32), device).view(-1, 1, 1, 1)

    has_phase = any(entry is not None and entry.mag_phase > 0 for entry in rows)
    return AdvancedTables(
        rows=None if all(is_advanced) else upload(torch.tensor(is_advanced), device).view(-1, 1, 1, 1),
        mult_blend=fader(lambda entry: entry.mult_blend),
        mag_phase=fader(lambda entry: entry.mag_phase),
        soft_thresh=fader(lambda entry: entry.soft_thresh),
        analytic_gain=upload(_analytic_gain(length), device) if has_phase else None,
    )


def _stacked(
    rows: Sequence[DcwSettings | None],
    weights_of: Callable[[DcwSettings | None], Tensor],
    device: str | torch.device,
) -> Tensor:
    """One table of all rows; a constant is spread over the length only where another row has a curve."""
    tables = {entry: weights_of(entry) for entry in set(rows)}
    longest = max(table.shape[2] for table in tables.values())
    return upload(torch.cat([tables[entry].expand(-1, -1, longest, -1) for entry in rows]), device)


def _row_mask(rows: Sequence[bool], device: str | torch.device) -> Tensor | None:
    return None if all(rows) else upload(torch.tensor(rows), device).view(-1, 1, 1)


def _choose(rows: Tensor | None, chosen: Tensor, other: Tensor) -> Tensor:
    return chosen if rows is None else torch.where(rows, chosen, other)
