# SPDX-License-Identifier: Apache-2.0
"""The training data: pieces, colours, captions and how takes are planned and kept."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine_server.model.prompts import METERS, Metas, format_prompt

pytest.importorskip("mido", reason="needs the packages for training")

from training import build_data
from training.build_data import (
    EVALUATION_SOUNDFONT,
    HELD_OUT_SEED,
    SOUNDFONTS,
    build,
    plan_evaluation,
    plan_hash,
    plan_takes,
)
from training.compose import DRUMS, HIGHEST_NOTE, LOWEST_NOTE, MELODY, compose
from training.effects import ROOMS, TONES, apply_colours, draw_colours
from training.instruments import FAMILIES, MIXED, MIXED_WORDS
from training.prompts import COLOURS, VOCABULARY, build_tokenizer, caption_for, metas_for, sample_captions
from training.recordings import cc0_samples
from training.render import PANS, SAMPLE_RATE, render_each, score_to_midi, to_int16
from training.renders import PieceInfo, Renders, Take, write_info

PIECE_S = 6.0
FAMILY_NAMES = {family.name for family in FAMILIES}
TAKE = Take("strings", ("strings", "string quartet"), (), "font.sf2", (48, 48, 48, 48))
COLOUR_SETS = [(), ("dark",), ("bright",), ("hall",), ("dry",), ("dark", "hall"), ("bright", "dry")]


@pytest.mark.parametrize("seed", range(30))
def test_a_piece_is_a_function_of_its_seed_and_stays_in_range(seed):
    piece = compose(seed, PIECE_S)
    assert piece == compose(seed, PIECE_S)
    assert piece.notes
    assert piece.notes != compose(seed + 1, PIECE_S).notes
    for note in piece.notes:
        assert LOWEST_NOTE <= note.pitch <= HIGHEST_NOTE
        assert 1 <= note.velocity <= 127
        assert 0 <= note.start_s < note.start_s + note.duration_s <= PIECE_S + 1e-9
    assert Metas(bpm=piece.bpm, key=piece.key, meter=piece.beats)  # raises for what a prompt could not say


def test_pieces_vary_in_voices_and_meter():
    pieces = [compose(seed, PIECE_S) for seed in range(300)]
    voices = [frozenset(note.voice for note in piece.notes) for piece in pieces]
    assert 0.25 < sum(DRUMS in used for used in voices) / len(pieces) < 0.45
    assert sum(used == {MELODY} for used in voices) > 15
    assert sum(MELODY not in used for used in voices) > 30
    assert {piece.beats for piece in pieces} == set(METERS)
    assert len({piece.key for piece in pieces}) == 24


def test_families_are_twelve_and_their_words_name_one_family_only():
    assert len(FAMILIES) == len(FAMILY_NAMES) == 12
    owners: dict[str, set[str]] = {}
    for family in FAMILIES:
        assert any(family.name in variant.words for variant in family.variants)
        for variant in family.variants:
            assert all(0 <= program < 128 for program in variant.programs)
            for word in variant.words:
                owners.setdefault(word, set()).add(family.name)
    assert all(len(names) == 1 for names in owners.values())
    assert not set(owners) & {synonym for forms in COLOURS.values() for words in forms for synonym in words}


def test_the_plan_of_a_piece_has_different_families_and_a_mixed_band_last():
    plans = [plan_takes(seed, 5) for seed in range(200)]
    for seed, plan in enumerate(plans):
        assert plan == plan_takes(seed, 5)
        families = [take.family for take in plan]
        assert len(set(families)) == 5
        assert families[-1] == MIXED
        assert plan[-1].words == MIXED_WORDS
    takes = [take for plan in plans for take in plan]
    assert {take.soundfont for take in takes} == {path.name for path in SOUNDFONTS}
    assert EVALUATION_SOUNDFONT not in SOUNDFONTS
    assert {take.family for take in takes} == {MIXED, *FAMILY_NAMES}


def test_evaluation_has_every_family_equally_often_and_no_colours():
    plans = [plan_evaluation(index) for index in range(24)]
    counts = Counter(take.family for plan in plans for take in plan)
    assert counts == dict.fromkeys(FAMILY_NAMES, 12)
    assert all(len({take.family for take in plan}) == len(plan) for plan in plans)
    assert all(not take.colours and take.soundfont == EVALUATION_SOUNDFONT.name for plan in plans for take in plan)


def test_colours_are_drawn_for_half_of_the_takes_and_never_contradict():
    draws = [draw_colours(random.Random(seed)) for seed in range(2000)]
    assert 0.45 < sum(not draw for draw in draws) / len(draws) < 0.55
    assert all(sum(c in TONES for c in draw) <= 1 and sum(c in ROOMS for c in draw) <= 1 for draw in draws)
    assert {colour for draw in draws for colour in draw} == {*TONES, *ROOMS} == set(COLOURS)


@pytest.mark.parametrize("colours", COLOUR_SETS, ids="+".join)
def test_effects_keep_length_and_place(colours):
    impulse = np.zeros((SAMPLE_RATE, 2), np.float32)
    impulse[5000] = 0.5
    heard = apply_colours(impulse, colours, 7, SAMPLE_RATE)
    assert heard.shape == impulse.shape
    assert np.array_equal(heard, apply_colours(impulse, colours, 7, SAMPLE_RATE))
    assert np.abs(heard[:5000]).max() < 1e-5 * np.abs(heard).max()  # nothing comes early
    assert np.all(np.abs(heard).argmax(0) - 5000 <= 0.0005 * SAMPLE_RATE)  # and the direct sound is not late


def test_the_same_colours_with_another_seed_differ():
    noise = np.random.default_rng(0).standard_normal((SAMPLE_RATE, 2)).astype(np.float32)
    assert not np.allclose(apply_colours(noise, (), 1, SAMPLE_RATE), apply_colours(noise, (), 2, SAMPLE_RATE))
    with pytest.raises(ValueError, match="purple"):
        apply_colours(noise, ("purple",), 1, SAMPLE_RATE)


def test_colours_can_be_heard():
    rng = np.random.default_rng(1)
    burst = np.zeros((2 * SAMPLE_RATE, 2), np.float32)
    burst[:4800] = 0.1 * rng.standard_normal((4800, 2))

    def high_share(audio):
        power = np.abs(np.fft.rfft(audio, axis=0)) ** 2
        return power[4000 * 2 :].sum() / power.sum()

    def late_share(audio):
        return (audio[SAMPLE_RATE * 2 // 5 :] ** 2).sum() / (audio**2).sum()

    for seed in range(2):
        heard = {colours: apply_colours(burst, colours, seed, SAMPLE_RATE) for colours in COLOUR_SETS}
        assert high_share(heard["dark",]) < 0.2 * high_share(heard[()]) < high_share(heard["bright",])
        assert late_share(heard["hall",]) > max(0.005, 5 * late_share(heard[()]))
        assert late_share(heard["dry",]) < 1e-6


def test_loud_audio_is_turned_down_and_not_clipped():
    loud = np.array([[2.0, -3.0], [0.5, 0.0]])
    assert np.abs(to_int16(loud)).max() < 32767
    assert to_int16(loud)[0, 0] / to_int16(loud)[1, 0] == pytest.approx(4, rel=1e-3)
    assert to_int16(np.full((2, 2), 0.5)).tolist() == [[16384, 16384]] * 2


@pytest.mark.parametrize("seed", range(40))
def test_a_caption_says_the_instrument_and_only_colours_that_are_there(seed):
    rng = random.Random(seed)
    colours = COLOUR_SETS[seed % len(COLOUR_SETS)]
    caption = caption_for(replace(TAKE, colours=colours), rng).lower()
    assert any(word in caption for word in TAKE.words)
    for colour, forms in COLOURS.items():
        if colour not in colours:
            named = [word for words in forms for word in words if re.search(rf"\b{word}\b", caption)]
            shared = [word for c in colours for words in COLOURS[c] for word in words]
            assert not [word for word in named if not any(word in other for other in shared)]


def test_captions_mention_most_colours_and_the_family_often():
    captions = [caption_for(replace(TAKE, colours=("dark",)), random.Random(seed)) for seed in range(300)]
    said = sum(any(word in caption.lower() for words in COLOURS["dark"] for word in words) for caption in captions)
    assert 0.75 < said / len(captions) < 0.95
    assert sum("strings" in caption.lower() for caption in captions) > 150
    assert len(set(captions)) > 60


def test_metas_are_told_half_of_the_time_and_fit_the_prompt():
    piece = PieceInfo(3, 97, "Eb major", 3)
    drawn = [metas_for(piece, random.Random(seed)) for seed in range(400)]
    for name in ("bpm", "key", "meter"):
        assert 160 < sum(name in metas for metas in drawn) < 240
    assert "- bpm: 97\n- timesignature: 3\n- keyscale: Eb major\n" in format_prompt(
        "x", metas=Metas(**max(drawn, key=len))
    )
    assert "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n" in format_prompt(
        "x", metas=Metas(**min(drawn, key=len))
    )


def test_the_tokenizer_knows_every_caption_word():
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= VOCABULARY
    for caption in sample_captions(1, 300):
        assert tokenizer.decode(tokenizer(caption).input_ids) == caption
    words = {word for family in FAMILIES for word in family.name.split()} | set(COLOURS)
    for word in words:
        assert len(tokenizer(f"solo {word}").input_ids) == 2, word


def test_the_score_selects_programs_per_piece_and_silences_between():
    pieces = [compose(seed, PIECE_S - 0.6) for seed in range(3)]
    score = score_to_midi(pieces, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)], PIECE_S)
    messages = list(score.tracks[0])
    assert [m.program for m in messages if m.type == "program_change"] == list(range(12))
    assert sum(m.type == "control_change" and m.control == 120 for m in messages) == 3 * (len(PANS) + 1)
    starts = sum(m.type == "note_on" and m.velocity > 0 for m in messages)
    assert starts == sum(len(piece.notes) for piece in pieces) == sum(m.type == "note_off" for m in messages)


def test_renders_come_back_as_written_and_split_by_piece(tmp_path):
    seeds = [0, 1, 2, HELD_OUT_SEED, HELD_OUT_SEED + 1]
    takes = [plan_takes(seed, 3) for seed in seeds]
    pieces = [PieceInfo(seed, 100, "A minor", 4) for seed in seeds]
    for name, held_out in (("renders", 2), ("evaluation", 5)):
        np.save(tmp_path / f"{name}.npy", np.zeros((5, 3, 10, 2), np.int16))
        write_info(tmp_path / f"{name}.json", pieces, takes, held_out)
    renders = Renders(tmp_path)
    assert renders.takes == takes
    assert renders.pieces == pieces
    assert renders.training_pieces == 3
    assert all(piece.seed < HELD_OUT_SEED for piece in renders.pieces[: renders.training_pieces])
    assert Renders(tmp_path, name="evaluation").training_pieces == 0


SPARE_TAKE = Take("", ("",), (), EVALUATION_SOUNDFONT.name, (0, 0, 0, 0))  # kept as rendered


def fake_audio(pieces, programs, soundfont, piece_s):
    """Every sample tells the program and the number of notes."""
    values = [1000 * voices[0] + len(piece.notes) for piece, voices in zip(pieces, programs, strict=True)]
    shape = (len(pieces), round(piece_s * SAMPLE_RATE), 2)
    return np.broadcast_to(np.array(values, np.int16)[:, None, None], shape)


def forbidden(*_):
    raise RuntimeError("no synthesiser here")


def fewer_notes(seed, seconds):
    piece = compose(seed, seconds)
    return replace(piece, notes=piece.notes[1:])


@pytest.fixture(autouse=True)
def soundfont_sizes(monkeypatch):
    """Sizes of the soundfonts' files by name, 1 where nothing else is said; the files need not be there."""
    sizes: dict[str, int] = {}
    monkeypatch.setattr(build_data, "_file_size", lambda path: sizes.get(path.name, 1))
    return sizes


def build_fake(work, seeds, programs, piece_s=1.0):
    takes = [[replace(SPARE_TAKE, programs=(program,) * 4) for program in programs]] * len(seeds)
    build("renders", work, seeds, takes, piece_s, 1)


def test_audio_and_description_agree_whatever_was_built_before(tmp_path, monkeypatch):
    plans = {
        "a": (compose, [1, 2], [3, 4], 1.0),
        "b": (compose, [1, 2], [5, 3], 1.0),
        "other notes": (fewer_notes, [1, 2], [3, 4], 1.0),
        "other shape": (compose, [2, 7, 1], [3, 4], 1.2),
    }
    for name in ("a", "b", "a", "other notes", "a", "other shape", "other notes", "a"):
        composer, seeds, programs, piece_s = plans[name]
        monkeypatch.setattr(build_data, "compose", composer)
        monkeypatch.setattr(build_data, "render_each", fake_audio)
        build_fake(tmp_path, seeds, programs, piece_s)
        monkeypatch.setattr(build_data, "render_each", forbidden)
        build_fake(tmp_path, seeds, programs, piece_s)
        renders = Renders(tmp_path)
        assert [piece.seed for piece in renders.pieces] == seeds
        assert renders.audio.shape == (len(seeds), 2, round(piece_s * SAMPLE_RATE), 2)
        for seed, takes, audio in zip(seeds, renders.takes, renders.audio, strict=True):
            notes = len(composer(seed, piece_s - build_data.SILENT_END_S).notes)
            assert [take.programs[0] for take in takes] == programs
            for program, samples in zip(programs, audio, strict=True):
                assert np.all(samples == 1000 * program + notes)
        assert len(list(tmp_path.glob("renders.*.done"))) == 1


def test_whatever_changes_the_audio_changes_the_plan(monkeypatch, soundfont_sizes):
    takes = [plan_evaluation(0)]

    def plan(seed=1, rows=takes, piece_s=2.0):
        return plan_hash([seed], rows, piece_s)

    seen = {plan(), plan(seed=2), plan(rows=[takes[0][::-1]]), plan(piece_s=2.5)}
    assert plan(rows=[tuple(takes[0])]) == plan()
    first = plan()
    soundfont_sizes[next(iter(SOUNDFONTS)).name] = 2  # which no take is played by
    assert plan() == first
    soundfont_sizes[EVALUATION_SOUNDFONT.name] = 2
    seen.add(plan())
    monkeypatch.setattr(build_data, "RENDERING", build_data.RENDERING + 1)
    seen.add(plan())
    monkeypatch.setattr(build_data, "compose", fewer_notes)
    seen.add(plan())
    assert len(seen) == 7


def test_another_rendering_is_rendered_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(build_data, "render_each", lambda *rest: calls.append(rest) or fake_audio(*rest))
    plans = []
    for rendering in (1, 1, 2):
        monkeypatch.setattr(build_data, "RENDERING", rendering)
        build_fake(tmp_path, [1], [3])
        plans.append(Renders(tmp_path).plan)
    assert len(calls) == 2
    assert plans[0] == plans[1] != plans[2]


def test_without_a_soundfont_nothing_is_thrown_away(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data, "render_each", fake_audio)
    build_fake(tmp_path, [1], [3])

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(build_data, "_file_size", missing)
    with pytest.raises(FileNotFoundError, match=EVALUATION_SOUNDFONT.name):
        build_fake(tmp_path, [1], [4])
    assert Renders(tmp_path).takes[0][0].programs[0] == 3


def test_an_interrupted_build_has_no_description_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data, "render_each", fake_audio)
    monkeypatch.setattr(build_data, "BATCH", 1)
    build_fake(tmp_path, [1], [3, 4])
    calls = []

    def render_once(*arguments):
        calls.append(arguments)
        return forbidden() if len(calls) == 2 else fake_audio(*arguments)

    monkeypatch.setattr(build_data, "render_each", render_once)
    with pytest.raises(RuntimeError, match="no synthesiser"):
        build_fake(tmp_path, [1], [5, 6])
    with pytest.raises(FileNotFoundError):
        Renders(tmp_path)
    build_fake(tmp_path, [1], [5, 6])
    assert [programs[0][0] for _, programs, *_ in calls] == [5, 6, 6]
    assert (Renders(tmp_path).audio[0, :, 0, 0] // 1000).tolist() == [5, 6]
    (tmp_path / "renders.npy").unlink()
    build_fake(tmp_path, [1], [5, 6])
    assert (Renders(tmp_path).audio[0, :, 0, 0] // 1000).tolist() == [5, 6]


def test_cc0_samples_are_read_from_the_copyright_file():
    text = (
        "Format: x\n\nFiles: *\nLicense: MIT\n\nFiles: etc/samples/b.flac\nCopyright: someone\nLicense: CC0\n\n"
        "Files: etc/samples/c.flac\nLicense: CC-BY-3.0\n\nFiles: etc/samples/a.flac\n etc/samples/d.flac\nLicense: CC0\n\n"
        "License: CC0\n Statement of Purpose\n"
    )
    assert cc0_samples(text) == ["a.flac", "b.flac", "d.flac"]


needs_synth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not all(path.exists() for path in SOUNDFONTS),
    reason="needs fluidsynth and the training soundfonts",
)


@needs_synth
def test_takes_are_aligned_loud_enough_and_resumed(tmp_path: Path, monkeypatch):
    piece = compose(11, 1.6)
    seeds, plain = [11], [replace(take, colours=()) for take in plan_takes(11, 5)[:1]]
    plucked = [replace(plain[0], programs=programs) for programs in ((0, 0, 0, 0), (12, 12, 12, 12))]
    build("renders", tmp_path, seeds, [plucked], 2.0, 1)
    renders = Renders(tmp_path)
    assert renders.pieces[0] == PieceInfo(11, piece.bpm, piece.key, piece.beats)
    audio = renders.audio[0].astype(np.float32) / 32768
    assert np.all(audio.std(axis=(1, 2)) > 1e-3)
    envelopes = [np.maximum(np.diff(np.sqrt((take.reshape(-1, 240, 2) ** 2).mean((1, 2)))), 0) for take in audio]
    lags = np.correlate(*envelopes, "full")
    assert abs(int(lags.argmax()) - (len(envelopes[0]) - 1)) <= 2  # frames of 5 ms
    heard = renders.audio.copy()
    monkeypatch.setattr(build_data, "render_each", forbidden)  # all batches are done: nothing is rendered again
    build("renders", tmp_path, seeds, [plucked], 2.0, 1)
    assert np.array_equal(Renders(tmp_path).audio, heard)


@needs_synth
def test_every_piece_of_a_render_is_the_same_alone():
    font = next(iter(SOUNDFONTS))
    pieces, programs = [compose(seed, 1.5) for seed in range(2)], [(0, 0, 0, 0)] * 2
    both = render_each(pieces, programs, font, 2.0)
    assert both.shape == (2, 2 * SAMPLE_RATE, 2)
    alone = render_each(pieces[1:], programs[1:], font, 2.0)
    assert np.abs(both[1].astype(int) - alone[0]).max() < 0.02 * np.abs(alone).max()
