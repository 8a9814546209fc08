# SPDX-License-Identifier: Apache-2.0
"""The evaluation's metrics on signals whose figures are known."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from evaluation_rig import Lossless, clicks, noise, tones

from training.evaluation.buzz import buzz
from training.evaluation.codec import below, chord_metrics, codec_metrics, si_sdr_db, silence_peak, window_error
from training.evaluation.descriptors import (
    SCALES,
    centroid_hz,
    describe,
    most_telling,
    onset_agreement,
    onset_count,
    onset_envelope,
    tempo_agrees,
    tempo_bpm,
)
from training.evaluation.notes import TOLERANCE_FRAMES, note_f1, posterior_f1
from training.evaluation.partials import chord, isolated_partials, measure_partials
from training.evaluation.spectra import (
    SAMPLE_RATE,
    htk_mel_filters,
    log_mel_distance,
    log_spectral_distance_db,
    slaney_mel_filters,
    spectrum,
)
from training.evaluation.stereo import side_share_db, stereo_error

has_note_model = pytest.mark.skipif(
    find_spec("basic_pitch") is None or find_spec("onnxruntime") is None, reason="needs basic-pitch's model"
)


def modulated(audio, hz, depth):
    time = torch.arange(audio.shape[1]) / SAMPLE_RATE
    return audio * (1 + depth * torch.sin(2 * math.pi * hz * time))


def stretched(audio, factor):
    """Played so many times faster."""
    return torch.nn.functional.interpolate(audio[None], scale_factor=1 / factor, mode="linear")[0]


def test_every_htk_filter_has_unit_sum():
    torch.testing.assert_close(htk_mel_filters(80).sum(1), torch.ones(80))


LIBROSA = {
    0: (2, 4, 0.018460167571902275, 0.042458947747945786),
    10: (24, 4, 0.016615835949778557, 0.042458947747945786),
    26: (62, 7, 0.012792895548045635, 0.042940832674503326),
    27: (65, 7, 0.011886999942362309, 0.04270981624722481),
    40: (128, 13, 0.006310476455837488, 0.04273001104593277),
    79: (972, 102, 0.0008416955242864788, 0.042665258049964905),
}
"""librosa 0.11's filters.mel(sr=48000, n_fft=2048, n_mels=80, norm="slaney"): peak bin, width in bins, peak, sum by band."""


def test_slaney_filters_are_librosas():
    filters = slaney_mel_filters()
    assert float(filters.sum()) == pytest.approx(3.4127614498138428, rel=1e-5)
    assert float(filters.double().square().sum()) == pytest.approx(0.020980293093889175, rel=1e-5)
    for band, (peak_bin, width, peak, total) in LIBROSA.items():
        row = filters[band]
        assert (int(row.argmax()), int((row > 0).sum())) == (peak_bin, width)
        assert (float(row.max()), float(row.sum())) == (pytest.approx(peak, rel=1e-5), pytest.approx(total, rel=1e-5))


def test_the_log_mel_distance_is_that_of_librosas_spectra_at_the_reference_level():
    def signal(*partials):
        time = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
        wave = sum(level * torch.sin(2 * math.pi * hz * time) for level, hz in partials)
        return wave.float().expand(2, -1)

    original = signal((0.1, 440.0), (0.05, 3000.0))
    other = signal((0.1, 450.0), (0.03, 3000.0), (0.01, 9000.0))
    assert log_mel_distance(original, other) == pytest.approx(0.0784539501865615, rel=1e-3)


def test_a_full_scale_sine_has_the_peak_that_the_floor_is_told_against():
    assert spectrum(10 * tones(1.0, 1500.0)[0] / 1.4).abs().max() == pytest.approx(11.3, rel=0.02)


def test_twice_the_level_is_nearly_ln_2_of_log_mel_and_6_db_of_spectrum():
    music = noise(2.0)
    assert 0.96 * math.log(2) < log_mel_distance(music, 2 * music) < math.log(2)  # the floor takes a little
    assert log_spectral_distance_db(music, 2 * music) == pytest.approx(6.02, rel=0.01)


def test_distances_do_not_depend_on_the_level_of_the_pair():
    music, other = noise(2.0, 1), noise(2.0, 2)
    assert log_mel_distance(0.1 * music, 0.1 * other) == pytest.approx(log_mel_distance(music, other), rel=1e-4)


def test_two_noises_are_as_far_apart_as_documented():
    assert log_spectral_distance_db(noise(4.0, 1), noise(4.0, 2)) == pytest.approx(7.8, abs=0.5)


def test_si_sdr_is_the_ratio_of_signal_to_what_was_added_whatever_the_gain():
    music, added = tones(1.0, 440.0)[0], noise(1.0)[0]
    added = added * music.norm() / added.norm() * 10 ** (-20 / 20)
    assert si_sdr_db(music, music + added) == pytest.approx(20.0, abs=0.2)
    assert si_sdr_db(music, 0.3 * (music + added)) == pytest.approx(20.0, abs=0.2)


def test_below_keeps_the_lows_and_drops_the_highs():
    low, high = tones(1.0, 300.0)[0], tones(1.0, 3000.0)[0]
    torch.testing.assert_close(below(low + high, 1000.0), low, atol=1e-3, rtol=0)


def test_a_lossless_codec_has_perfect_figures(monkeypatch):
    monkeypatch.setattr("training.evaluation.codec.note_f1", lambda a, b: 1.0)
    figures = codec_metrics(Lossless(), noise(6.0)[:, :-100])
    assert figures["log_mel_nat"] == figures["lsd_db"] == figures["window_error"] == 0.0
    assert figures["ild_error_db"] == figures["coherence_error"] == 0.0
    assert figures["si_sdr_db"] > 90
    assert figures["level_db"] == pytest.approx(0.0)
    assert silence_peak(Lossless()) == 0.0
    chord_figures = chord_metrics(Lossless())
    assert chord_figures["partials_right"] == 1.0
    assert chord_figures["partial_error_pct"] < 0.02
    assert chord_figures["unsteadiness_db"] < 0.1
    assert chord_figures["buzz_line_db"] == pytest.approx(0.0)


def test_a_codec_that_looks_at_its_position_fails_the_window_check():
    class Drifting(Lossless):
        def decode(self, latents, position=0):
            frames = torch.arange(latents.shape[1]).repeat_interleave(self.hop)
            return super().decode(latents) + 0.01 * frames

    assert window_error(Lossless(), noise(4.0)) == 0.0
    assert window_error(Drifting(), noise(4.0)) > 0.01


def test_a_level_difference_that_is_lost_is_told_in_db():
    music = noise(2.0)
    music[1] = music[0]
    panned = music * torch.tensor([[1.0], [0.5]])
    error = stereo_error(panned, music)
    assert error.level_difference_db == pytest.approx(6.02, abs=0.05)
    assert error.coherence == pytest.approx(0.0, abs=1e-3)


def test_sides_that_become_one_lose_their_incoherence():
    wide = noise(4.0)
    narrow = wide.mean(0).expand(2, -1)
    assert stereo_error(wide, narrow).coherence > 0.5
    assert side_share_db(wide) == pytest.approx(0.0, abs=0.2)
    assert side_share_db(narrow) == pytest.approx(-80.0)


def test_the_chord_has_isolated_partials_in_several_octaves():
    partials = list(isolated_partials())
    assert len(partials) >= 12
    assert partials[0] == 220.0
    assert partials[-1] > 2000.0


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.004, True), (1.02, False)])
def test_partials_off_by_more_than_one_percent_are_wrong(factor, right):
    partials = measure_partials(stretched(chord(), factor))
    assert all(partial.is_right == right for partial in partials)


def test_noise_has_no_partials():
    assert not any(partial.is_right for partial in measure_partials(noise(6.0)) if partial.expected_hz < 1000)


def test_an_unsteady_chord_is_told():
    steady = np.median([partial.unsteadiness_db for partial in measure_partials(chord())])
    shaken = np.median([partial.unsteadiness_db for partial in measure_partials(modulated(chord(), 3.0, 0.3))])
    assert steady < 0.1
    assert shaken == pytest.approx(1.9, abs=0.3)


@pytest.mark.parametrize("hz", [25, 50, 100])
def test_a_buzz_at_a_frame_rate_stands_out(hz):
    assert buzz(chord(), modulated(chord(), hz, 0.2))["line_db"] > 15


def test_other_movements_are_no_buzz():
    assert buzz(noise(8.0), modulated(noise(8.0), 6.0, 0.5))["line_db"] < 4
    assert buzz(noise(8.0, 1), noise(8.0, 2))["line_db"] < 4
    assert buzz(chord(), noise(6.0))["energy_db"] > 10


def test_posteriors_within_the_tolerance_agree():
    played = np.zeros((100, 88), np.float32)
    played[20:60, 40] = 1.0
    late = np.roll(played, TOLERANCE_FRAMES, 0)
    assert posterior_f1(played, late) == pytest.approx(1.0)
    assert posterior_f1(played, np.roll(played, 20, 0)) == pytest.approx(0.55, abs=0.06)
    assert posterior_f1(played, np.roll(played, 1, 1)) == 0.0
    assert posterior_f1(np.zeros_like(played), np.zeros_like(played)) == 1.0


@has_note_model
def test_notes_are_heard_whatever_their_colour():
    plain = tones(3.0, 220.0, 330.0)
    coloured = tones(3.0, 220.0, 440.0, 330.0, 660.0)
    other = tones(3.0, 261.6, 392.0)
    assert note_f1(plain, plain) == 1.0
    assert note_f1(plain, coloured) > 0.5
    assert note_f1(plain, other) < 0.2


def test_the_centroid_of_a_tone_is_its_frequency():
    assert centroid_hz(tones(1.0, 2000.0)) == pytest.approx(2000.0, rel=0.03)


@pytest.mark.parametrize("bpm", [75.0, 120.0, 150.0])
def test_clicks_have_their_tempo_and_count(bpm):
    audio = clicks(8.0, bpm)
    assert tempo_bpm(onset_envelope(audio)) == pytest.approx(bpm, rel=0.03)
    assert onset_count(audio) == pytest.approx(8.0 * bpm / 60, abs=1.5)


def test_onsets_agree_with_themselves_and_not_with_others():
    at_95, at_120, at_121 = (onset_envelope(clicks(6.0, bpm)) for bpm in (95, 120, 121))
    assert onset_agreement(at_120, at_120) == pytest.approx(1.0, abs=1e-4)
    assert onset_agreement(at_120, at_95) < 0.5
    assert tempo_agrees(at_120, at_121)
    assert not tempo_agrees(at_120, at_95)


def test_the_most_telling_descriptor_is_what_was_changed():
    plain = describe(noise(3.0))
    assert set(plain) == set(SCALES)
    assert most_telling(plain, describe(0.2 * noise(3.0))) == "level dB"
    narrow = noise(3.0).mean(0).expand(2, -1) * math.sqrt(2)
    assert most_telling(plain, describe(narrow)) == "side dB"
    assert plain["flatness dB"] == pytest.approx(-2.5, abs=0.3)
    assert describe(tones(3.0, 440.0))["flatness dB"] < -20


def test_silence_can_be_described():
    assert all(math.isfinite(value) for value in describe(torch.zeros(2, SAMPLE_RATE)).values())
    assert onset_count(torch.zeros(2, SAMPLE_RATE)) == 0
    assert centroid_hz(torch.zeros(2, SAMPLE_RATE)) == 0.0
