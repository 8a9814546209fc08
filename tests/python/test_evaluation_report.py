# SPDX-License-Identifier: Apache-2.0
"""What the evaluation says about its figures: intervals, targets, tables, JSON; and the judge's arithmetic."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from evaluation_rig import noise, tones
from rich.console import Console

from engine_server.diffusion.parameters import PARAMETERS
from engine_server.tracks.curves import build_table
from engine_server.tracks.lanes import ACTED_LANES, CLIP_LANES
from shared_protocol.errors import DemonError

pytest.importorskip("mido", reason="needs the packages for training")

from training import build_data
from training.build_data import HELD_OUT_SEED, SOUNDFONTS, plan_evaluation
from training.evaluation import material, requirements, timbre
from training.evaluation.descriptors import SCALES
from training.evaluation.examples import MORE_PROGRAMS, Examples, plan
from training.evaluation.judge import PIECES, Discriminant, train
from training.evaluation.listening import CASES
from training.evaluation.parts.covers import is_brighter, pairs, right_ways, taught_ways
from training.evaluation.parts.dose import steps_farther
from training.evaluation.parts.loras import most_telling_effect
from training.evaluation.picture import draw
from training.evaluation.probes import PARAMETER_PROBES, UNHEARD, lane_probes
from training.evaluation.report import (
    Figure,
    Listing,
    PartResult,
    as_json,
    mean,
    print_part,
    share,
    shown,
    wilson,
    write_json,
)
from training.evaluation.requirements import LISTENING, NEEDS, PARTS, Need
from training.evaluation.run import Options
from training.evaluation.spectrograms import BANDS_PER_OCTAVE, LOWEST_HZ, log_spectrogram_db
from training.evaluation.targets import TARGETS, Target
from training.instruments import FAMILIES
from training.renders import PieceInfo, write_info


def test_wilson_interval_of_a_known_case():
    low, high = wilson(13, 18)
    assert (low, high) == (pytest.approx(0.491, abs=0.001), pytest.approx(0.875, abs=0.001))
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_mean_tells_its_spread_and_none_of_no_cases():
    figure = mean("x", [float(value) for value in range(11)])
    assert (figure.value, figure.cases, figure.interval) == (5.0, 11, (1.0, 9.0))
    assert math.isnan(mean("x", []).value)
    assert share("x", 3, 4).value == 0.75


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target(low=0.7), 0.7, True),
        (Target(low=0.7), 0.69, False),
        (Target(high=6.0), 6.1, False),
        (Target(1.0, 1.0), 1.0, True),
        (Target(low=0.0), math.nan, False),
    ],
)
def test_a_target_is_met_within_its_bounds(target, value, met):
    assert target.is_met(value) == met


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target(low=0.7), ">= 0.7"),
        (Target(high=6.0), "<= 6"),
        (Target(1.0, 1.0), "= 1"),
        (Target(0.5, 2.0), "0.5 to 2"),
    ],
)
def test_a_target_is_written_with_its_bounds(target, text):
    assert str(target) == text


def test_every_target_belongs_to_a_part():
    assert set(TARGETS) <= set(PARTS)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.250"), (12.3456, "12.3"), (math.nan, "nan"), (1e-5, "1e-05")]
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert shown(value) == text


def results() -> list[PartResult]:
    covers = PartResult("covers", [share("prompted family heard, denoise 1", 60, 72), Figure("other", math.nan)])
    rows = [(family.name, *range(len(FAMILIES))) for family in FAMILIES]
    covers.add(Listing("prompted (rows) and heard, denoise 1", ("", *(family.name for family in FAMILIES)), rows))
    dose = PartResult("dose", [Figure("distance at denoise 0", 0.5)])
    dose.add(
        Listing(
            "dose", ("control", "level", "latents", "mel"), [("denoise", 0.0, 0.0, 0.1), ("denoise", 1.0, 1.0, 0.9)]
        )
    )
    lanes = PartResult("lanes")
    lanes.add(Listing("lanes", ("what", "setting", "log-mel distance, nat"), [("denoise", "1", 0.3)]))
    return [covers, dose, lanes]


def test_json_holds_figures_targets_and_listings_and_no_nan():
    report = json.loads(json.dumps(as_json({"model": "m"}, results()), allow_nan=False))
    first, second = report["parts"]["covers"]["figures"]
    assert first["met"] is True
    assert first["target"] == ">= 0.7"
    assert second["value"] is None
    assert second["met"] is None
    assert report["parts"]["dose"]["figures"][0]["met"] is False
    assert report["parts"]["lanes"]["listings"][0]["rows"] == [["denoise", "1", 0.3]]


def test_a_report_that_breaks_off_leaves_the_last_one(tmp_path):
    path = tmp_path / "folder" / "figures.json"
    write_json(path, {"model": "m"})
    with pytest.raises(TypeError):
        write_json(path, {"model": object()})
    assert json.loads(path.read_text()) == {"model": "m"}
    write_json(path, {"model": "n"})
    assert json.loads(path.read_text()) == {"model": "n"}
    assert [each.name for each in path.parent.iterdir()] == ["figures.json"]


def test_tables_say_pass_and_fail():
    text = io.StringIO()
    for result in results():
        print_part(Console(file=text, width=170), result)
    assert "pass" in text.getvalue()
    assert "FAIL" in text.getvalue()


def test_the_picture_is_drawn_from_whatever_parts_there_are(tmp_path):
    head = {"model": "m", "content_hash": "0" * 64, "guidance": 1.0}
    draw(tmp_path / "folder" / "all.png", head, results())
    draw(tmp_path / "none.png", head, [])
    assert (tmp_path / "folder" / "all.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "none.png").exists()


def test_unknown_parts_are_named():
    with pytest.raises(DemonError, match=r"E_FIELD.*'sound'"):
        Options(parts=["codec", "sound"])


def test_what_is_missing_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(requirements, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None)
    with pytest.raises(DemonError) as error:
        requirements.check_requirements(["codec"])
    for text in ("no_such_package", "fluidsynth", "pip install -e '.[training]'", "timgm6mb-soundfont", "--no-deps"):
        assert text in error.value.message


def test_a_part_needs_only_what_it_uses(monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "NOTE_PACKAGES", ("no_such_package",))
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None)
    requirements.check_requirements(["speed", "taste"])
    with pytest.raises(DemonError, match="fluidsynth missing"):
        requirements.check_requirements(["identity"])
    with pytest.raises(DemonError, match="no_such_package, fluidsynth missing"):
        requirements.check_needs(LISTENING)


def test_songs_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(material, "FIXTURES", tmp_path)
    with pytest.raises(DemonError, match=r"turin_italy_30s\.flac.*pair_piano_8s\.flac.*fixtures/"):
        requirements.check_needs([Need.SONGS])
    assert Need.SONGS in NEEDS["codec"]
    assert {case.fixture for case in CASES} <= {*material.RECORDINGS, *material.PAIRS}


def test_held_out_pieces_by_another_plan_are_rendered_again(monkeypatch, tmp_path):
    rendered = []
    monkeypatch.setattr(material, "PIECE_S", 0.1)
    monkeypatch.setattr(material, "build", lambda name, *_, **__: rendered.append(name))
    monkeypatch.setattr(build_data, "_file_size", lambda path: 1)  # no soundfont is needed
    seeds, takes = [HELD_OUT_SEED, HELD_OUT_SEED + 1], [plan_evaluation(0), plan_evaluation(1)]
    plan = build_data.plan_hash(seeds, takes, 0.1)
    monkeypatch.setattr(build_data, "RENDERING", build_data.RENDERING + 1)
    later = build_data.plan_hash(seeds, takes, 0.1)
    for made_to, wanted in ((later, []), (plan, ["evaluation_2"]), ("", ["evaluation_2"])):
        pieces = [PieceInfo(seed, 100, "C major", 4) for seed in seeds]
        write_info(tmp_path / "evaluation_2.json", pieces, takes, 2, made_to)
        np.save(tmp_path / "evaluation_2.npy", np.zeros((2, 6, 4800, 2), np.int16))
        assert material.HeldOut(tmp_path, 2).audio(1, 5).shape == (2, 4800)
        assert rendered == wanted
        rendered.clear()


def test_every_lane_that_the_engine_acts_on_is_probed_within_its_range():
    probes = lane_probes()
    assert [probe.lane for probe in probes] == list(CLIP_LANES)
    for probe in probes:
        assert probe.settings
        for value in probe.settings:
            build_table({**probe.companions, probe.lane: value}, 10, CLIP_LANES)  # raises outside the range


def test_every_parameter_of_the_sampler_is_a_lane_or_probed_or_explained():
    probed = [probe.parameter for probe in PARAMETER_PROBES]
    assert len(set(probed)) == len(probed)
    assert set(PARAMETERS) == (set(ACTED_LANES) & set(PARAMETERS)) | set(probed) | set(UNHEARD)


@pytest.mark.parametrize(
    ("centroid", "than", "verdict"),
    [(1060, 1000, True), (940, 1000, False), (1049, 1000, None), (1000, 1049, None), (0, 0, None), (500, 0, True)],
)
def test_nearly_equal_centroids_tell_no_direction(centroid, than, verdict):
    assert is_brighter(centroid, than) is verdict


@pytest.mark.parametrize(
    ("taught_hz", "way"),
    [
        ((1100, 1200, 1300), True),
        ((900, 800, 700), False),
        ((1100, 900, 1300), None),  # they do not agree
        ((1100, 1010, 1300), None),  # one of them cannot tell
        ((1010, 1000, 990), None),
    ],
)
def test_a_way_is_taught_where_all_soundfonts_agree(taught_hz, way):
    assert taught_ways([1000.0], [taught_hz]) == [way]


@pytest.mark.parametrize(
    ("after_hz", "ways", "hits", "cases"),
    [
        ((1200, 800), (True, False), 2, 2),
        ((1200, 800), (False, False), 1, 2),
        ((800, 1200), (True, False), 0, 2),
        ((1200, 800), (None, False), 1, 1),
        ((1000, 800), (False, None), 1, 1),
        ((1200, 800), (None, None), 0, 0),
    ],
)
def test_right_ways_are_counted_where_there_is_one(after_hz, ways, hits, cases):
    figure = right_ways("x", (1000, 1000), after_hz, ways, "")
    assert (figure.value, figure.cases) == (hits / max(1, cases), cases)


@pytest.mark.parametrize(
    ("distances", "farther"),
    [
        ((0, 1, 2, 3, 4), 4),
        ((0, 1, 0.97, 3, 4), 4),  # back by less than 1 % of the whole way
        ((0, 1, 0.95, 3, 4), 3),
        ((4, 3, 2, 1, 0), 0),
        ((2, 2, 2), 2),
    ],
)
def test_steps_that_come_back_are_not_farther(distances, farther):
    assert steps_farther(distances) == farther


def moved(**moves):
    """Descriptors before and after, of cases that move so, in units of hearing; descriptors not named stay."""
    count = len(next(iter(moves.values())))
    by_name = {name.replace("_", " "): values for name, values in moves.items()}
    before = [dict.fromkeys(SCALES, 3.0) for _ in range(count)]
    after = [
        {name: 3.0 + unit * by_name.get(name, [0.0] * count)[case] for name, unit in SCALES.items()}
        for case in range(count)
    ]
    return before, after


@pytest.mark.parametrize(
    ("moves", "name", "is_told"),
    [
        ({"level_dB": [2.0] * 12}, "level dB", True),
        ({"level_dB": [-2.0] * 11 + [1.0]}, "level dB", True),
        ({"level_dB": [2.0] * 10 + [-1.0] * 2}, "level dB", False),  # too often the other way
        ({"level_dB": [0.2] * 12}, "level dB", False),  # always the same way, and never heard
        ({"level_dB": [9.0] * 8 + [-9.0] * 4, "floor_dB": [1.5] * 12}, "floor dB", True),  # the larger is no effect
        ({"level_dB": [1.2] * 12, "floor_dB": [1.5] * 12}, "floor dB", True),
        ({"level_dB": [9.0] * 8 + [-9.0] * 4, "floor_dB": [1.5] * 9 + [-1.0] * 3}, "level dB", False),
    ],
)
def test_a_lora_is_told_by_a_consistent_effect_that_is_heard(moves, name, is_told):
    effect = most_telling_effect(*moved(**moves))
    assert (effect.name, effect.is_told) == (name, is_told)


def test_pairs_are_three_per_piece_and_use_every_take_once():
    cases = pairs(24)
    assert len(cases) == 72
    assert {(case.piece, take) for case in cases for take in (case.source, case.target)} == {
        (piece, take) for piece in range(24) for take in range(6)
    }


def test_listening_cases_have_names_of_their_own_and_are_enough():
    assert len({case.slug for case in CASES}) == len(CASES) >= 12


def test_a_discriminant_tells_clouds_apart_along_the_direction_that_counts():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)
    x = rng.normal(size=(300, 4)) * (1, 20, 1, 1)
    x[:, 0] += 6 * labels
    model = Discriminant.fit(x, labels, 3)
    assert (model.scores(x).argmax(1) == labels).mean() > 0.98


def test_the_judge_is_tested_on_pieces_that_it_was_not_trained_on():
    rng = np.random.default_rng(0)
    classes = len(FAMILIES)
    labels, pieces = np.tile(np.arange(classes), 10), np.repeat(np.arange(10), classes)
    x = np.eye(classes)[labels] * 20 + rng.normal(size=(len(labels), classes))
    rendered = Examples(x, labels, pieces)
    assert train(rendered, rendered).own_accuracy == (2 * classes, 2 * classes)
    shuffled = Examples(x, np.where(pieces < 8, labels, (labels + 1) % classes), pieces)
    assert train(shuffled, shuffled).own_accuracy == (0, 2 * classes)


def test_the_judges_examples_have_every_family_and_soundfont():
    takes = [plan(index) for index in range(PIECES)]
    assert all([take.family for take in row] == [family.name for family in FAMILIES] for row in takes)
    assert {take.soundfont for row in takes for take in row} == {path.name for path in SOUNDFONTS}
    assert set(MORE_PROGRAMS) <= {family.name for family in FAMILIES}


def test_timbre_does_not_depend_on_the_level_and_takes_any_length():
    music = tones(4.0, 220.0, 660.0) + 0.05 * noise(4.0)
    loud, quiet = timbre.features(music), timbre.features(0.1 * music)
    np.testing.assert_allclose(loud, quiet, atol=1e-2)
    assert timbre.features(music[:, :9600]).shape == loud.shape
    assert np.isfinite(timbre.features(torch.zeros(2, 48_000))).all()


def test_a_tone_lies_in_its_band_of_the_log_spectrogram():
    levels = log_spectrogram_db(tones(1.0, 880.0))
    assert abs(int(levels.mean(1).argmax()) - 4 * BANDS_PER_OCTAVE) <= 1
    assert LOWEST_HZ * 2**4 == 880.0
