# SPDX-License-Identifier: Apache-2.0
"""The wavelet-domain correction and its transform: golden vectors, PyWavelets, and what must hold exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.diffusion.dcw import apply_dcw, plan_dcw
from engine_server.diffusion.dcw_settings import MODES, UNSET, DcwSettings
from engine_server.diffusion.wavelets import FilterBank, Wavelet, analyse, synthesise

FOLDER = Path(__file__).parents[1] / "golden" / "sampler"
GOLDEN = {name: dict(np.load(FOLDER / f"{name}.npz")) for name in ("dcw_T16", "dcw_T17", "dwt")}
CASES = [
    pytest.param(name, k, json.loads(text), id=f"{name}-{k}")
    for name in ("dcw_T16", "dcw_T17")
    for k, text in enumerate(GOLDEN[name]["cases_json"])
]
SCALERS = {"default": (0.05, 0.02), "big": (0.4, 0.25), "neg": (-0.2, 0.1)}
HALF = torch.full((1, 1, 1), 0.5)


def signals(rows, frames, channels=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, frames, channels, generator=generator).unbind()


def correct(rows, x, y, t=HALF):
    plan = plan_dcw(rows, x.shape[1])
    return x if plan is None else apply_dcw(plan, x, y, t)


def settings_of(case, data):
    curves = {
        "curve": (data["curve_low"], data["curve_high"]),
        "shortcurve": (data["curve_short"], 0.1),
    }
    scaler, high_scaler = (SCALERS | curves)[case["scalers"]]
    return DcwSettings(
        mode=case["mode"], wavelet=case["wavelet"], scaler=scaler, high_scaler=high_scaler, **case["advanced"]
    )


faders = st.sampled_from([(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.2), (0.3, 0.4, 0.1)])


@st.composite
def row_settings(draw, frames):
    """Any settings of a row, None and inactive ones included."""
    if draw(st.integers(0, 5)) == 0:
        return None
    mode = draw(st.sampled_from(MODES))
    length = draw(st.sampled_from([1, frames] if mode == "pix" else [1, 2, 5, frames]))
    value = st.sampled_from([0.0, 0.05, -0.2, 0.4])
    scaler = draw(st.lists(value, min_size=length, max_size=length))
    blend, phase, threshold = draw(faders)
    return DcwSettings(
        enabled=draw(st.integers(0, 5)) > 0,
        mode=mode,
        scaler=scaler if length > 1 else scaler[0],
        high_scaler=draw(value),
        wavelet=draw(st.sampled_from(["haar", "db1", "db4", "sym8", "bior2.2"])),
        mult_blend=blend,
        mag_phase=phase,
        soft_thresh=threshold,
    )


@pytest.mark.parametrize(("name", "k", "case"), CASES)
def test_correction_matches_the_golden_vectors(name, k, case):
    data = GOLDEN[name]
    x, y = torch.from_numpy(data["x_next"]), torch.from_numpy(data["denoised"])
    out = correct([settings_of(case, data)], x, y, torch.full((1, 1, 1), case["t"]))
    np.testing.assert_allclose(out[0], data["out"][k], rtol=0, atol=1e-5, err_msg=str(case))


@pytest.mark.parametrize("name", ["dcw_T16", "dcw_T17"])
def test_all_golden_cases_as_rows_of_one_call_have_the_bits_of_single_calls(name):
    data = GOLDEN[name]
    cases = [json.loads(text) for text in data["cases_json"]]
    rows = [settings_of(case, data) for case in cases]
    x, y = torch.from_numpy(data["x_next"]), torch.from_numpy(data["denoised"])
    t = torch.tensor([case["t"] for case in cases]).view(-1, 1, 1)
    together = correct(rows, x.repeat(len(rows), 1, 1), y.repeat(len(rows), 1, 1), t)
    for k, row in enumerate(rows):
        assert torch.equal(together[k : k + 1], correct([row], x, y, t[k : k + 1])), cases[k]


@pytest.mark.parametrize("name", ["haar", "db4", "sym8"])
@pytest.mark.parametrize("frames", [16, 17])
def test_transform_matches_the_golden_vectors(name, frames):
    golden = {key: GOLDEN["dwt"][f"{name}_T{frames}_{key}"][0].T for key in ("x", "low", "high", "recon_untrimmed")}
    bank = FilterBank.of(Wavelet.named(name))
    bands = analyse(bank, torch.from_numpy(golden["x"])[None])
    np.testing.assert_allclose(bands[0, 0], golden["low"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(bands[0, 1], golden["high"], rtol=0, atol=1e-6)
    untrimmed = synthesise(bank, bands, len(golden["recon_untrimmed"]))
    np.testing.assert_allclose(untrimmed[0], golden["recon_untrimmed"], rtol=0, atol=2e-6)


@settings(max_examples=150)
@given(
    name=st.sampled_from(pywt.wavelist(kind="discrete")),
    frames=st.integers(1, 70),
    channels=st.sampled_from([1, 3, 64]),
    seed=st.integers(0, 2**31),
)
def test_transform_equals_pywavelets_with_zero_extension(name, frames, channels, seed):
    signal = signals(1, frames, channels, seed)[0]
    low, high = pywt.dwt(signal[0].double().numpy(), name, mode="zero", axis=0)
    wavelet = Wavelet.named(name)
    bank = FilterBank.of(wavelet)
    bands = analyse(bank, signal)
    assert bands.shape == (1, 2, wavelet.band_length(frames), channels)
    np.testing.assert_allclose(bands[0], np.stack([low, high]), rtol=0, atol=2e-5)
    there_and_back = pywt.idwt(low, high, name, mode="zero", axis=0)[:frames]
    np.testing.assert_allclose(synthesise(bank, bands, frames)[0], there_and_back, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["nope", "morl", "", 3])
def test_a_wavelet_that_is_unknown_or_continuous_is_rejected(name):
    with pytest.raises(ValueError, match="wavelet is"):
        DcwSettings(wavelet=name)


@settings(max_examples=60)
@given(st.data())
def test_a_rows_bits_depend_on_that_row_only(data):
    frames = data.draw(st.sampled_from([1, 2, 16, 25]))
    rows = data.draw(st.lists(row_settings(frames), min_size=1, max_size=6))
    x, y = signals(len(rows), frames, data.draw(st.sampled_from([3, 64])), data.draw(st.integers(0, 99)))
    t = torch.rand(len(rows), 1, 1, generator=torch.Generator().manual_seed(1))
    together = correct(rows, x, y, t)
    for k, row in enumerate(rows):
        one = slice(k, k + 1)
        assert torch.equal(together[one], correct([row], x[one], y[one], t[one])), row
        if row is None or not row.is_active:
            assert torch.equal(together[one], x[one]), row


@settings(max_examples=40)
@given(st.data())
def test_one_entry_serves_all_rows_with_the_bits_of_one_entry_per_row(data):
    frames = data.draw(st.sampled_from([1, 16, 25]))
    row = data.draw(row_settings(frames))
    x, y = signals(5, frames)
    t = torch.rand(5, 1, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(correct([row], x, y, t), correct([row] * 5, x, y, t))


@pytest.mark.parametrize("frames", [1, 24, 25])
def test_a_curve_of_one_value_has_the_bits_of_the_number(frames):
    x, y = signals(1, frames)
    for mode in MODES:
        for wavelet in ("haar", "db4"):
            number = DcwSettings(mode=mode, wavelet=wavelet, scaler=0.3, high_scaler=-0.1)
            drawn = number.updated(scaler=[0.3] * frames, high_scaler=np.full(frames, -0.1))
            assert torch.equal(correct([number], x, y), correct([drawn], x, y)), (mode, wavelet)


@pytest.mark.parametrize("wavelet", ["haar", "db4"])
@pytest.mark.parametrize("mode", MODES)
def test_a_row_that_is_off_keeps_its_bits_beside_rows_that_are_not_finite(mode, wavelet):
    x, y = signals(3, 25)
    x[1], y[0] = -0.0, float("inf")
    on = DcwSettings(mode=mode, wavelet=wavelet, mag_phase=0.5)
    out = correct([replace(on, scaler=0.0, high_scaler=[0.0, 0.0]), None, on], x, y)
    assert torch.equal(out[:2].view(torch.int32), x[:2].view(torch.int32))
    assert not torch.equal(out[2], x[2])


def test_there_is_no_plan_without_an_active_row():
    off = DcwSettings(enabled=False)
    assert plan_dcw([None, off, DcwSettings(scaler=0, high_scaler=0), DcwSettings(mode="low", scaler=0)], 16) is None
    assert plan_dcw([], 16) is None
    assert plan_dcw([off, DcwSettings()], 16) is not None


def test_only_mode_double_reads_the_high_scaler():
    assert DcwSettings(scaler=0).is_active
    for mode in ("low", "high", "pix"):
        assert not DcwSettings(mode=mode, scaler=[0.0, 0.0]).is_active
        assert DcwSettings(mode=mode, scaler=[0.0, 0.1], high_scaler=0).is_active


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frames", [1, 16, 17])
def test_haar_changes_nothing_where_state_and_estimate_agree(mode, frames):
    x, _ = signals(2, frames)
    assert torch.equal(correct([DcwSettings(mode=mode, scaler=0.4)], x, x.clone()), x)


@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym8", "coif3", "rbio3.1"])
@pytest.mark.parametrize("mode", ["low", "high", "double"])
def test_any_wavelet_changes_nothing_but_rounding_where_state_and_estimate_agree(mode, wavelet):
    x, _ = signals(1, 25)
    out = correct([DcwSettings(mode=mode, scaler=0.4, wavelet=wavelet, mult_blend=0.5, soft_thresh=0.1)], x, x)
    np.testing.assert_allclose(out, x, rtol=0, atol=5e-6)


@settings(max_examples=40)
@given(frames=st.integers(1, 40), strength=st.floats(-1, 1), seed=st.integers(0, 99))
def test_haar_with_equal_bands_equals_pix(frames, strength, seed):
    x, y = signals(1, frames, 8, seed)
    # At t = 1/2 both bands have half their scaler.
    bands = correct([DcwSettings(scaler=2 * strength, high_scaler=2 * strength)], x, y)
    frames_only = correct([DcwSettings(mode="pix", scaler=strength)], x, y)
    np.testing.assert_allclose(bands, frames_only, rtol=0, atol=2e-6)


@settings(max_examples=40)
@given(st.data())
def test_the_closed_form_of_haar_equals_its_transform(data):
    frames = data.draw(st.sampled_from([1, 2, 24, 25]))
    row = data.draw(row_settings(frames).filter(lambda row: row is not None and row.mode != "pix"))
    plain = row.updated(wavelet="haar", mult_blend=0, mag_phase=0, soft_thresh=0)
    through_bands = plain.updated(soft_thresh=1e-30)  # far below rounding
    x, y = signals(1, frames)
    np.testing.assert_allclose(correct([plain], x, y), correct([through_bands], x, y), rtol=0, atol=2e-6)


def test_pix_ignores_wavelet_and_advanced_faders():
    x, y = signals(1, 25)
    plain = DcwSettings(mode="pix", scaler=0.1)
    advanced = plain.updated(wavelet="db4", mult_blend=0.3, mag_phase=0.4, soft_thresh=0.1)
    assert torch.equal(correct([plain], x, y), correct([advanced], x, y))


def test_inputs_are_left_alone_and_need_not_be_contiguous():
    x, y = signals(2, 25)
    for row in (DcwSettings(), DcwSettings(wavelet="db4", mag_phase=0.5)):
        kept_x, kept_y = x.clone(), y.clone()
        out = correct([row], x, y)
        assert torch.equal(x, kept_x)
        assert torch.equal(y, kept_y)
        by_channel = x.transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(correct([row], by_channel, y), out)


def test_update_keeps_what_is_unset_and_resets_what_is_none():
    live = DcwSettings(mode="low", scaler=[0.1, 0.2], mult_blend=0.3, mag_phase=0.4)
    assert live.updated(scaler=UNSET, mult_blend=UNSET) == live
    assert live.updated(mult_blend=None, mag_phase=None) == DcwSettings(mode="low", scaler=[0.1, 0.2])
    assert live.updated(mode=None, scaler=None, mult_blend=0, mag_phase=0.0) == DcwSettings()
    with pytest.raises(ValueError, match="strength unknown; the settings are enabled, mode"):
        live.updated(strength=1)


def test_settings_do_not_follow_a_curve_that_is_drawn_on_later():
    curve = np.array([0.1, 0.2], dtype=np.float32)
    kept = DcwSettings(scaler=curve)
    curve[:] = 9.0
    assert kept.scaler == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "loud"),
        ("scaler", float("nan")),
        ("scaler", torch.zeros(1, 4, 64)),
        ("scaler", "0.1"),
        ("high_scaler", []),
        ("high_scaler", torch.zeros(2, 4)),
        ("mult_blend", 1.5),
        ("mag_phase", -0.1),
        ("soft_thresh", float("inf")),
    ],
)
def test_a_bad_setting_is_rejected_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        DcwSettings(**{field: value})


def test_a_pix_curve_of_another_length_is_rejected_where_the_frames_are_known():
    with pytest.raises(ValueError, match="scaler has 5 frames; 1 or 16 are expected"):
        plan_dcw([DcwSettings(mode="pix", scaler=[0.1] * 5)], 16)
